// config.json of every model and scheduler; the first byte chooses whose.
#include "fuzz.h"
#include "models/autoencoder_kl.h"
#include "models/clip_config.h"
#include "models/unet2d_condition_config.h"
#include "sample/scheduler.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace spindle;
  if (size == 0) return 0;
  return fuzz::expect_read_or_refusal([&] {
    Config config = Config::parse(std::string(fuzz::text(data + 1, size - 1)), "config.json");
    switch (data[0]) {
      case 'u':
        parse_unet2d_condition_config(config);
        break;
      case 'v':
        parse_autoencoder_kl_config(config);
        break;
      case 't':
        parse_clip_text_config(config);
        break;
      case 'c':
        parse_clip_config(config);
        break;
      default:
        make_scheduler(config.json())->set_timesteps(10);
    }
  });
}
