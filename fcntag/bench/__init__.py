"""``fcntag bench``: stages, networks and peers timed side by side, with the noise stated and the bottleneck named.

networks.py what is timed, clips.py on which audio, peers.py against what, timing.py and measure.py how, machine.py
where, report.py the result (text and JSON), compare.py two results, plot.py the picture. On a GPU: cuda.py what and in
which order, cuda_group.py in turn, cuda_peers.py against what (cuda_frontend.py their front ends), cuda_work.py how
much there is to do, cuda_text.py for people, gpu.py the GPU's own readings.
"""
