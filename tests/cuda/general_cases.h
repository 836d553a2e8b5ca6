// Front ends beyond 512 points, power and the two logarithms of mel_cases.h: frames of any length, and every setting.
#pragma once

#include <vector>

#include "mel_cases.h"

namespace fcntag {
namespace mel_cases {

struct General : MelCase {
  General& scaled(Normalization by) { return normalization = by, *this; }
  General& squared() { return exponent = 2, *this; }
  General& in_float16() { return float16 = true, *this; }
  General& by_time() { return time_mel = true, *this; }
  General& below_maximum(double db) { return ref_max = true, top_db = db, *this; }
  General& clips(int all, int existing) { return batch = all, count = existing, *this; }
  General& of(const char* kind) { return signal = kind, *this; }
  General& bins() { return identity = true, *this; }
  General& magnitudes() { return magnitude = true, *this; }
  General& floor(double least, double added) { return amin = least, offset = added, *this; }
  General& wide_bands() { return wide = true, *this; }
  General& by_name_only() { return many = true, *this; }
};

// A frame's length, bands, hop, samples of a clip, of them in front of it, frames.
inline General general(const char* name, int n_fft, int n_mels, int hop, int n_samples, int pad_left, int n_frames,
                       PadMode pad, LogKind log) {
  General c{};
  c.name = name;
  c.n_fft = n_fft;
  c.n_mels = n_mels;
  c.hop = hop;
  c.n_samples = n_samples;
  c.pad_left = pad_left;
  c.n_frames = n_frames;
  c.pad = pad;
  c.log = log;
  c.normalization = N::kNone;
  return c;
}

inline std::vector<MelCase> general_cases() {
  return {
      general("64 points", 64, 16, 16, 400, 32, 26, kReflect, kDb).below_maximum(80).clips(3, 2),
      general("64 points, a frame beyond sixteen", 64, 33, 16, 330, 32, 17, kZeros, L::kNone).bins().by_time(),
      general("65 points", 65, 33, 16, 300, 32, 19, kZeros, L::kNone).bins().scaled(N::kScalar),
      general("66 points: eleven", 66, 34, 20, 300, 33, 15, kZeros, L::kNone).bins().magnitudes().by_time(),
      general("67 points: a prime", 67, 34, 20, 300, 33, 15, kZeros, L::kNone).bins(),
      general("74 points: a prime, twice", 74, 38, 20, 300, 37, 15, kReflect, L::kLog1p).bins().scaled(N::kPerMel),
      general("94 points", 94, 40, 30, 300, 0, 8, kZeros, L::kLn).floor(0, 1e-6).scaled(N::kPerFrame),
      general("100 points", 100, 51, 40, 600, 50, 15, kReflect, L::kNone).bins().by_time(),
      general("256 points", 256, 40, 128, 2000, 128, 15, kReflect, L::kLn).magnitudes().floor(0, 0.01),
      general("VGGish", 512, 64, 160, 2000, 0, 10, kZeros, L::kLn).magnitudes().floor(0, 0.01).by_time(),
      general("512 points, log10", 512, 20, 256, 2000, 256, 7, kReflect, L::kLog10).floor(1e-8, 1e-6).squared(),
      general("512 points, each band by itself", 512, 40, 256, 3000, 256, 12, kReflect, L::kLn)
          .floor(0, 1e-6)
          .scaled(N::kStandardizePerMel)
          .clips(3, 2),
      general("513 bands of 512 points", 512, 513, 256, 1200, 256, 3, kReflect, kDb).below_maximum(80),
      general("400 points", 400, 80, 160, 2400, 200, 15, kReflect, L::kLog10),
      general("hop beyond 400 points", 400, 30, 1000, 3500, 0, 4, kZeros, kDb).clips(2, 1),
      general("441 points", 441, 23, 200, 2000, 220, 10, kReflect, kDb).scaled(N::kStandardize).below_maximum(60),
      general("600 points, float16", 600, 40, 300, 2000, 300, 7, kZeros, kLog).squared().in_float16().by_time(),
      general("1000 points", 1000, 64, 250, 3000, 500, 13, kReflect, kDb)
          .magnitudes()
          .squared()
          .below_maximum(80)
          .scaled(N::kPerFrame),
      general("1024 points, each band by itself", 1024, 40, 512, 4000, 512, 8, kReflect, kDb)
          .of("fading")
          .below_maximum(40)
          .by_time()
          .scaled(N::kStandardizePerMel),
      general("1103 points: a prime", 1103, 20, 700, 2500, 551, 4, kReflect, L::kLn).floor(1e-9, 0),
      general("2048 points", 2048, 128, 512, 5000, 1024, 8, kReflect, kDb).below_maximum(80),
      general("2048 points, wide bands", 2048, 3, 1500, 4000, 1024, 3, kZeros, L::kLog1p).magnitudes().wide_bands(),
      general("4096 points", 4096, 40, 2048, 5000, 2048, 3, kReflect, kDb).by_time(),
      general("8192 points", 8192, 40, 4096, 9000, 4096, 2, kReflect, kLog).magnitudes().clips(2, 1),
      general("8191 points: a prime", 8191, 10, 4096, 9000, 0, 1, kZeros, L::kNone).magnitudes().clips(1, 1),
      general("shorter than 2048 points", 2048, 12, 256, 300, 1024, 2, kReflect, kDb),
      general("silence, each band by itself", 400, 12, 200, 2000, 200, 11, kZeros, L::kLn)
          .floor(1e-6, 0)
          .of("silence")
          .scaled(N::kStandardizePerMel),
      general("an impulse in 400 points", 400, 201, 200, 2000, 200, 11, kZeros, L::kNone).bins().of("impulse"),
      general("sine on a bin of 600", 600, 301, 300, 2000, 0, 5, kZeros, kDb).bins().of("sine").floor(1e-22, 0),
      general("sine on a bin of 1103", 1103, 100, 500, 2000, 0, 2, kZeros, kDb).bins().of("sine").floor(1e-22, 0),
      general("no clips of 1024 points", 1024, 12, 256, 3000, 256, 12, kZeros, kDb)
          .scaled(N::kStandardizePerMel)
          .below_maximum(80)
          .clips(0, 0),
      general("no clip of 1024 points exists", 1024, 12, 256, 3000, 256, 12, kZeros, kDb).clips(2, 0),
      // More frames, or clips, than blocks work at once where their buffers are in scratch memory.
      general("frames in turns", 1024, 9, 10, 3700, 0, 268, kZeros, kDb).below_maximum(60).by_name_only(),
      general("clips in turns", 100, 9, 10, 200, 50, 3, kReflect, kDb)
          .below_maximum(20)
          .scaled(N::kStandardizePerMel)
          .by_time()
          .clips(270, 268)
          .by_name_only(),
  };
}

}  // namespace mel_cases
}  // namespace fcntag
