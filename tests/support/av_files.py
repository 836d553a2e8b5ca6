"""Files that PyAV writes, for the tests of what is read through it."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np


def notes(n_frames: int, n_channels: int = 2, sample_rate: int = 44100) -> np.ndarray:
    """Plucked notes, float32 [n_frames, n_channels]: no part of them looks like another, so that a shift shows."""
    rng = np.random.default_rng(7)
    t = np.arange(n_frames) / sample_rate
    sound = np.zeros(n_frames)
    for at in np.arange(0, n_frames / sample_rate, 0.11):
        pitch = 220 * 2 ** (rng.integers(0, 30) / 12)
        after = np.clip(t - at, 0, None)
        sound += np.where(t >= at, np.exp(-9 * after) * np.sin(2 * np.pi * pitch * after), 0)
    sound *= 0.5 / np.abs(sound).max()
    return np.stack([sound * (1 - 0.1 * channel) for channel in range(n_channels)], axis=1).astype(np.float32)


def av_file(
    samples: np.ndarray,
    sample_rate: int,
    container: str,
    codec: str | None,
    *,
    video: str | None = None,
    bit_rate: int | None = None,
    options: dict[str, str] | None = None,
) -> bytes:
    """``samples`` [n, channels] as a file; ``codec`` None: no sound. ``video`` names a codec for some pictures."""
    file = io.BytesIO()
    out = av.open(file, "w", format=container, options=options or {})
    picture: Any = None
    if video is not None:
        picture = out.add_stream(video, rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
    audio: Any = None
    if codec is not None:
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
        audio = out.add_stream(codec, rate=sample_rate, layout=layout)
        formats = [f.name for f in av.codec.Codec(codec, "w").audio_formats or ()]
        audio.codec_context.format = formats[0] if formats else "s16"
        if bit_rate is not None:
            audio.bit_rate = bit_rate
    if picture is not None:
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((72, 64), 20 * number, np.uint8), format="yuv420p")
            frame.pts = number
            out.mux(picture.encode(frame))
        out.mux(picture.encode(None))
    if audio is not None:
        whole = np.clip(np.rint(samples * 32767), -32768, 32767).astype(np.int16)
        resampler = av.AudioResampler(audio.codec_context.format, layout, sample_rate)
        step = 1 << 12
        for at in range(0, len(whole), step):
            part = np.ascontiguousarray(whole[at : at + step].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
            frame.sample_rate, frame.pts = sample_rate, at
            for converted in resampler.resample(frame):
                out.mux(audio.encode(converted))
        out.mux(audio.encode(None))
    out.close()
    return file.getvalue()


def av_decode(data: bytes) -> np.ndarray:
    """Everything that PyAV decodes of ``data``, float32 [n, channels]."""
    blocks = []
    with av.open(io.BytesIO(data)) as container:
        for frame in container.decode(audio=0):
            block = frame.to_ndarray()
            block = block.T if frame.format.is_planar else block.reshape(-1, len(frame.layout.channels))
            if block.dtype == np.uint8:
                block = (block.astype(np.float32) - 128) / 128
            elif block.dtype.kind != "f":
                block = block * np.float32(2.0 ** (1 - 8 * block.dtype.itemsize))
            blocks.append(block.astype(np.float32))
    return np.concatenate(blocks)


def lag(late: np.ndarray, early: np.ndarray) -> int:
    """By how many samples ``late`` [n] is behind ``early`` [n], from their cross-correlation."""
    n = min(len(late), len(early))
    product = np.fft.irfft(np.fft.rfft(late[:n], 2 * n) * np.conj(np.fft.rfft(early[:n], 2 * n)))
    best = int(np.argmax(product))
    return best if best < n else best - 2 * n


# ---- MP4 files as Apple's and fdk's encoders write them ----


def atom(name: bytes, *content: bytes) -> bytes:
    """An MP4 atom."""
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def itunes_note(priming: int, remainder: int, count: int) -> bytes:
    """The atom "udta" with iTunes' note about priming and padding."""
    text = f" 00000000 {priming:08X} {remainder:08X} {count:016X}" + " 00000000" * 8
    freeform = atom(
        b"----",
        atom(b"mean", bytes(4), b"com.apple.iTunes"),
        atom(b"name", bytes(4), b"iTunSMPB"),
        atom(b"data", struct.pack(">II", 1, 0), text.encode()),
    )
    handler = atom(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    return atom(b"udta", atom(b"meta", bytes(4), handler, atom(b"ilst", freeform)))


def with_note(mp4: bytes, note: bytes) -> bytes:
    """``mp4``, whose "moov" comes last, without its edit list and with ``note`` in it."""
    mp4 = mp4.replace(b"edts", b"free")
    at = mp4.rindex(b"moov") - 4
    (size,) = struct.unpack_from(">I", mp4, at)
    assert at + size == len(mp4)
    return mp4[:at] + struct.pack(">I", size + len(note)) + mp4[at + 4 :] + note


def with_edit_at(mp4: bytes, media_time: int) -> bytes:
    """``mp4`` whose edit list starts at another position of the track."""
    at = mp4.index(b"elst")
    return mp4[: at + 16] + struct.pack(">i", media_time) + mp4[at + 20 :]


def as_he_aac(mp4: bytes) -> bytes:
    """AAC-LC at 22,050 Hz declared as HE-AAC at 44,100 Hz: the decoder doubles the rate, though no band is replicated.

    The configuration ends in a synchronous extension (ISO/IEC 14496-3, 1.6.5): object type 5, flag, rate index.
    """
    extension = b"\x56\xe5\x00"
    assert mp4.count(extension) == 1
    return mp4.replace(extension, bytes((0x56, 0xE5, 0x80 | 4 << 3)))
