"""HTML pages about data and runs: one file each, without scripts and without anything from outside.

`markup` escapes, `charts` draws, `sheet` is the frame of a page; the other modules say what is on
it. Runs in the driver.
"""
