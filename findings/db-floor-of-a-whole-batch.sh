#!/usr/bin/env bash
# torchlibrosa 0.1.0 and torchaudio 2.8.0 take the floor of top_db from the loudest clip of the whole batch.
#
# Seen: LogmelFilterBank(top_db=80) of torchlibrosa floors every clip of a batch at 80 dB below the batch's maximum.
# AmplitudeToDB(top_db=80) of torchaudio does so for inputs [batch, mel, time], the shape that MelSpectrogram gives for
# waves [batch, samples]; for [batch, channel, mel, time] it takes each clip's own maximum. A quiet clip therefore has
# other features, and other tags, beside a loud one than alone. top_db=None helps, and a channel axis with torchaudio.
#
# Installs the pinned packages into a temporary folder (PyTorch with its CUDA libraries: several GB).
# Exit code 0: as described; 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchlibrosa==0.1.0 librosa==0.11.0 numpy==2.3.5 torch==2.8.0 torchaudio==2.8.0
cat > "$folder/show.py" <<'PY'
import numpy as np
import torch
import torchaudio
import torchlibrosa

rng = np.random.default_rng(0)
quiet = torch.from_numpy(1e-5 * rng.standard_normal(32000).astype(np.float32))
loud = torch.from_numpy(0.3 * rng.standard_normal(32000).astype(np.float32))
both = torch.stack([quiet, loud])

spectrogram = torchlibrosa.Spectrogram(n_fft=1024, hop_length=512)
logmel = torchlibrosa.LogmelFilterBank(sr=16000, n_fft=1024, n_mels=64, top_db=80.0)
mel = torchaudio.transforms.MelSpectrogram(sample_rate=16000, n_fft=1024)
db = torchaudio.transforms.AmplitudeToDB(top_db=80.0)

alone, beside = logmel(spectrogram(quiet[None])), logmel(spectrogram(both))[:1]
moved = {"torchlibrosa": (alone - beside).abs().max().item()}
moved["torchaudio [batch, mel, time]"] = (db(mel(quiet[None])) - db(mel(both))[:1]).abs().max().item()
moved["torchaudio [batch, 1, mel, time]"] = (db(mel(quiet[None, None])) - db(mel(both[:, None]))[:1]).abs().max().item()
for name, value in moved.items():
    print(f"{name}: the quiet clip's values move by up to {value:.1f} dB")
values = list(moved.values())
# Output of 2026-11-28:
#   torchlibrosa: the quiet clip's values move by up to 31.6 dB
#   torchaudio [batch, mel, time]: the quiet clip's values move by up to 49.9 dB
#   torchaudio [batch, 1, mel, time]: the quiet clip's values move by up to 0.0 dB
raise SystemExit(not (values[0] > 1 and values[1] > 1 and values[2] == 0))
PY
"$folder/venv/bin/python" -W ignore "$folder/show.py"
