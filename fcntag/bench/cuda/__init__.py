"""``fcntag bench --device cuda``: every stage on a GPU, peers beside it, and the ceilings that percentages refer to.

============== ====================================================================
``measure``    settings in, a report out
``group``      contenders: checked against fcntag's float32 scores, timed in turn
``peers``      the other runtimes; a new one is a row of ``PEERS``
``frontends``  their front ends
``work``       the operations and bytes of a stage, for the percentages
``gpu``        the GPU's measured ceilings and the driver's readings
``clocks``     its clock while something is timed
``text``       a report for people
============== ====================================================================
"""
