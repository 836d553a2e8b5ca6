"""``fcntag bench``: stages, networks and peers timed side by side, with the noise stated and the bottleneck named.

networks.py what is timed, clips.py on which audio, peers.py against what, timing.py and measure.py how, machine.py
where, report.py the result (text and JSON), compare.py two results, plot.py the picture.
"""
