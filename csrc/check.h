// FCNTAG_CHECK(condition, message parts...): throws std::invalid_argument, which pybind11 turns into ValueError.
#pragma once

#include <sstream>
#include <stdexcept>

namespace fcntag {

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

}  // namespace fcntag

#define FCNTAG_CHECK(condition, ...) \
  do {                               \
    if (!(condition)) {              \
      ::fcntag::fail(__VA_ARGS__);   \
    }                                \
  } while (0)
