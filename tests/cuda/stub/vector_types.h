// The emulator's: its folder also has a launch.h, which must not hide the real one here.
#pragma once

#include "emulation/include/vector_types.h"
