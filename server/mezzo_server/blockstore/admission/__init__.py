"""Which puts are taken: not every chunk is worth the device's writes.

`sketch.py` remembers what was wanted lately, `endurance.py` what the device may be written, `admission.py`
decides.  What is not taken is answered so, and never looks stored.
"""
