#include "models/clip_config.h"

#include "models/config_fields.h"

namespace spindle {

namespace {

// What transformers writes into every config and no forward reads: initialisation, generation,
// bookkeeping.
const char* const kIgnored[] = {"architectures",
                                "transformers_version",
                                "torch_dtype",
                                "dtype",
                                "return_dict",
                                "output_hidden_states",
                                "output_attentions",
                                "output_scores",
                                "chunk_size_feed_forward",
                                "id2label",
                                "label2id",
                                "problem_type",
                                "initializer_range",
                                "initializer_factor",
                                "finetuning_task",
                                "model_type",
                                "bos_token_id",
                                "pad_token_id",
                                "sep_token_id",
                                "decoder_start_token_id",
                                "forced_bos_token_id",
                                "forced_eos_token_id",
                                "bad_words_ids",
                                "do_sample",
                                "early_stopping",
                                "length_penalty",
                                "diversity_penalty",
                                "encoder_no_repeat_ngram_size",
                                "no_repeat_ngram_size",
                                "exponential_decay_length_penalty",
                                "max_length",
                                "min_length",
                                "num_beam_groups",
                                "num_beams",
                                "num_return_sequences",
                                "repetition_penalty",
                                "remove_invalid_values",
                                "return_dict_in_generate",
                                "suppress_tokens",
                                "begin_suppress_tokens",
                                "temperature",
                                "top_k",
                                "top_p",
                                "typical_p",
                                "prefix",
                                "task_specific_params",
                                "tokenizer_class",
                                "tf_legacy_loss",
                                "tie_word_embeddings",
                                "torchscript",
                                "use_bfloat16",
                                "use_cache",
                                "attn_implementation"};

void ignore_bookkeeping(const Config& config) {
  for (const char* key : kIgnored) config.ignore(key);
  for (const char* key :
       {"is_decoder", "is_encoder_decoder", "tie_encoder_decoder", "add_cross_attention"})
    config.only(key, {false});
  config.only("cross_attention_hidden_size", {});
  if (config.raw("pruned_heads").is_object() && !config.raw("pruned_heads").members().empty())
    config.refuse("pruned_heads", "none");
  for (const char* key : {"dropout", "attention_dropout"})
    config.ignore(key);  // towers are never trained here
}

ClipTowerConfig tower(const Config& config, const ClipTowerConfig& defaults) {
  ClipTowerConfig t = defaults;
  t.hidden_size = positive(config, "hidden_size", defaults.hidden_size);
  t.intermediate_size = positive(config, "intermediate_size", defaults.intermediate_size);
  t.num_hidden_layers = positive(config, "num_hidden_layers", defaults.num_hidden_layers);
  t.num_attention_heads = positive(config, "num_attention_heads", defaults.num_attention_heads);
  t.activation = config.choice("hidden_act", {"quick_gelu", "gelu"}, "quick_gelu") == "gelu"
                     ? Activation::Gelu
                     : Activation::QuickGelu;
  t.layer_norm_eps = config.number("layer_norm_eps", 1e-5);
  if (t.hidden_size % t.num_attention_heads != 0)
    config.refuse("num_attention_heads", cat("a divisor of hidden_size ", t.hidden_size));
  return t;
}

ClipTextConfig text(const Config& config) {
  ClipTextConfig c{.tower = tower(config, {.hidden_size = 512,
                                           .intermediate_size = 2048,
                                           .num_hidden_layers = 12,
                                           .num_attention_heads = 8})};
  c.vocab_size = positive(config, "vocab_size", 49408);
  c.max_position_embeddings = positive(config, "max_position_embeddings", 77);
  c.eos_token_id = config.integer("eos_token_id", 49407);
  config.ignore(
      "projection_dim");  // the full model's is its own; the text model alone has no projection
  ignore_bookkeeping(config);
  config.refuse_unread();
  return c;
}

ClipVisionConfig vision(const Config& config) {
  ClipVisionConfig c{.tower = tower(config, {.hidden_size = 768,
                                             .intermediate_size = 3072,
                                             .num_hidden_layers = 12,
                                             .num_attention_heads = 12})};
  c.num_channels = positive(config, "num_channels", 3);
  c.image_size = positive(config, "image_size", 224);
  c.patch_size = positive(config, "patch_size", 32);
  if (c.patch_size > c.image_size)
    config.refuse("patch_size", cat("at most image_size ", c.image_size));
  for (const char* key : {"projection_dim", "eos_token_id"}) config.ignore(key);
  ignore_bookkeeping(config);
  config.refuse_unread();
  return c;
}

// Old files repeat a tower's options under a second name, which the library lets win: only
// repetitions are supported.
void check_repeated(const Config& config, const std::string& key, const std::string& original) {
  if (!config.has(key)) return;
  const Json& first = config.raw(original);
  for (const auto& [name, value] : config.raw(key).members()) {
    const Json* other = first.is_object() ? first.find(name) : nullptr;
    if (!other || !(*other == value))
      config.refuse(key, cat("the same ", name, " as in ", original));
  }
}

}  // namespace

ClipTextConfig parse_clip_text_config(const Config& config) {
  ClipTextConfig c = text(config);
  // The lone tower's class alone says whether its pooled state passes the projection.
  const Json& classes = config.raw("architectures");
  if (classes.is_array() && classes == Json(Json::Array{"CLIPTextModelWithProjection"}))
    c.projection_dim = positive(config, "projection_dim", 512);
  return c;
}

ClipConfig parse_clip_config(const Config& config) {
  Config text_config = config.has("text_config") ? config.nested("text_config")
                                                 : Config(Json(Json::Object{}), config.label());
  Config vision_config = config.has("vision_config") ? config.nested("vision_config")
                                                     : Config(Json(Json::Object{}), config.label());
  ClipConfig c{.text = text(text_config), .vision = vision(vision_config)};
  c.projection_dim = positive(config, "projection_dim", 512);
  check_repeated(config, "text_config_dict", "text_config");
  check_repeated(config, "vision_config_dict", "vision_config");
  for (const char* key : {"logit_scale_init_value", "text_config", "vision_config",
                          "text_config_dict", "vision_config_dict", "eos_token_id"})
    config.ignore(key);
  ignore_bookkeeping(config);
  config.refuse_unread();
  return c;
}

}  // namespace spindle
