"""What can be refused about section `model` without data. Runs in the driver, before Ray starts."""

from __future__ import annotations

from raydc.spec.model import Builder, Fusion, Model, Torchvision
from raydc.spec.sequence_models import HuggingFace


def check_section(model: Model) -> None:
    """Refuses a network, weights or a builder that do not exist.

    Nothing is built and nothing is downloaded.

    Args:
        model: Section `model` of a spec.

    Raises:
        SpecError: torchvision has no such model or weights, the file of weights cannot be read or
            does not fit, the builder cannot be imported, or it does not take its arguments; or a
            package for pretrained encoders is missing.
    """
    # Imported only where they are needed: torch and torchvision take seconds.
    if isinstance(model, Torchvision):
        from raydc.models import torchvision_models

        torchvision_models.require_names(model)
    elif isinstance(model, Builder):
        from raydc.models import user_models

        user_models.require_builder(model)
    elif isinstance(model, HuggingFace):
        from raydc.models import adapters, text_encoders

        text_encoders.require_packages()
        if model.lora is not None:
            adapters.require_peft()
    elif isinstance(model, Fusion) and isinstance(model.image, Torchvision):
        from raydc.models import torchvision_models

        torchvision_models.require_names(model.image)
    if model.weights_file is not None:
        from raydc.models import weights_check

        weights_check.check_file(model)
