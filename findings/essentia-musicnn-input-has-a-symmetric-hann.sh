#!/usr/bin/env bash
# essentia 2.1b6.dev1389: TensorflowInputMusiCNN windows with a symmetric Hann, musicnn's own code with a periodic one.
#
# Seen: the documented log-mel (frames of 512 samples, 96 Slaney bands, log10(10000 m + 1)) with a Hann window of period
# 511 agrees with TensorflowInputMusiCNN to 4e-5; with period 512, which librosa and therefore musicnn's training
# data have, it is off by up to 0.05, a thousand times as much. The networks were trained behind the periodic window.
#
# Installs the pinned packages into a temporary folder. Exit code 0: as described; 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet essentia==2.1b6.dev1389 librosa==0.11.0 numpy==2.4.6
cat > "$folder/show.py" <<'PY'
import essentia
import librosa
import numpy as np

essentia.log.infoActive = False
import essentia.standard as standard

t = np.arange(16000) / 16000
wave = (0.3 * np.sin(2 * np.pi * 220 * t * (1 + t)) + 0.01 * np.random.default_rng(0).standard_normal(16000)).astype(np.float32)
frames = np.stack([wave[i : i + 512] for i in range(0, len(wave) - 511, 256)])
mel = standard.TensorflowInputMusiCNN()
theirs = np.stack([mel(frame) for frame in frames])
filters = librosa.filters.mel(sr=16000, n_fft=512, n_mels=96)
off = {}
for name, period in (("symmetric", 511), ("periodic", 512)):
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / period)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    off[name] = float(np.abs(np.log10(1 + 10000 * power @ filters.T) - theirs).max())
    print(f"Hann window, {name}: log-mel differs by up to {off[name]:.1e}")
# Output of 2026-11-28:
#   Hann window, symmetric: log-mel differs by up to 3.5e-05
#   Hann window, periodic: log-mel differs by up to 5.1e-02
raise SystemExit(not (off["symmetric"] < 1e-3 and off["periodic"] > 1e-2))
PY
"$folder/venv/bin/python" -W ignore "$folder/show.py" 2> /dev/null
