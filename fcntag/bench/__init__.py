"""``fcntag bench``: stages, networks and peers timed side by side, with the noise stated and the bottleneck named.

===================== =============================================================
``measure``           the CPU's bench: settings in, a report out
``shared``            the steps that both benches have
``variants``          the two forms of a network: original and reduced
``peers``             the other runtimes; a new one is a row of ``PEERS``
``clips``             the audio
``timing, samples``   calls timed in turn, and the statistics of their samples
``machine``           the CPU, its load, and its measured ceilings
``report, compare``   the result, as JSON and back; two results
``text, plot``        a report for people, and as a picture
``cuda``              the GPU's bench, with modules of the same names
===================== =============================================================
"""
