#pragma once

namespace spindle {

constexpr const char* kVersion = "0.1.0";

}  // namespace spindle
