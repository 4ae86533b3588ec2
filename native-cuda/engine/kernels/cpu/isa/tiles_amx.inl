// The processor's tile registers. The compiler's own intrinsics are not used: GCC 12's _tile_loadd
// does not say that it reads memory, so stores to a buffer that is then loaded as a tile may be
// moved behind it or dropped.

// Every tile is 16 rows of 64 bytes, always: tails are padded with zeros, and a thread configures
// its tiles once.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

struct Tiles {
  Tiles() {
    static thread_local bool configured = false;
    if (configured) return;
    static constexpr TileConfig config{};
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
    configured = true;
  }
  template <int T>
  void clear() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
  }
  template <int T>
  void fetch(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
  }
  template <int T>
  void put(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
  }
  // c[m][n] += sum over k of a[m][k] * b[k][n], k in pairs: a tile of 16 x 32, b of 16 pairs x 16
  // columns.
  template <int C, int A, int B>
  void dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
  }
};
