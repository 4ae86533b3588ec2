/** A CLIP tokenizer's files. transformers 5 builds CLIP's normaliser and word pattern itself. */
import { all, noEffect, only, read, type ConfigKeys, type KeyRules } from './rules.js';

const tokens: KeyRules = all(
  [
    ...['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'],
    ...['additional_special_tokens', 'extra_special_tokens', 'model_specific_special_tokens'],
  ],
  read,
);

export const tokenizerKeys: ConfigKeys = {
  file: 'tokenizer/tokenizer_config.json',
  of: 'CLIPTokenizer',
  library: 'transformers',
  keys: {
    ...tokens,
    ...all(['added_tokens_decoder', 'model_max_length', 'max_len'], read),
    tokenizer_class: only('CLIPTokenizer', 'CLIPTokenizerFast', null),
    // Without it libraries before 5 differ from one another.
    do_lower_case: only(true, null),
    ...all(['padding_side', 'truncation_side'], only('right')),
    split_special_tokens: only(false),
    ...all(['vocab', 'merges', 'tokenizer_object', 'gguf_file', 'tokenizer'], only(null)),
    init_inputs: only([], null),
    ...all(
      ['add_prefix_space', 'add_bos_token', 'add_eos_token', 'post_processor', 'unk_id'],
      noEffect("CLIP's tokenizer sets its own, whatever the file says"),
    ),
    ...all(
      [
        ...['errors', 'clean_up_tokenization_spaces'],
        'clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output',
      ],
      noEffect('it is of decoding ids to text, which nobody does here'),
    ),
    ...all(
      [
        ...['max_length', 'stride', 'truncation_strategy', 'pad_to_multiple_of'],
        ...['tokenizer_truncation', 'tokenizer_padding'],
      ],
      noEffect('every call says how it pads and cuts'),
    ),
    ...all(
      ['model_input_names', 'pad_token_type_id', 'token_type_ids'],
      noEffect('a text encoder takes ids alone'),
    ),
    ...all(
      ['chat_template', 'response_template', 'response_schema', 'chat_control_tokens'],
      noEffect('a prompt is no chat'),
    ),
    ...all(
      [
        ...['name_or_path', 'special_tokens_map_file', 'tokenizer_file', 'vocab_file'],
        ...['merges_file', 'processor_class', 'auto_map', 'backend', 'files_loaded', 'is_local'],
        ...['local_files_only', 'verbose', 'legacy', 'use_fast', 'fix_mistral_regex'],
      ],
      noEffect('it names things; the files are those of the folder'),
    ),
  },
};

export const specialTokensKeys: ConfigKeys = {
  file: 'tokenizer/special_tokens_map.json',
  of: 'CLIPTokenizer',
  library: 'transformers',
  keys: tokens,
};

export const tokenizerJsonKeys: ConfigKeys = {
  file: 'tokenizer/tokenizer.json',
  of: 'CLIPTokenizer',
  library: 'transformers',
  keys: {
    ...all(['model', 'added_tokens', 'truncation', 'padding'], read),
    ...all(
      ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'],
      noEffect("transformers 5 puts CLIP's own in their place"),
    ),
    version: noEffect('it is of the file'),
  },
};

export const tokenizerModelKeys: ConfigKeys = {
  file: 'tokenizer/tokenizer.json, model',
  of: 'CLIPTokenizer',
  library: 'transformers',
  keys: {
    ...all(['type', 'vocab', 'merges'], read),
    ...all(
      [
        ...['dropout', 'unk_token', 'continuing_subword_prefix', 'end_of_word_suffix'],
        ...['fuse_unk', 'byte_fallback', 'ignore_merges'],
      ],
      noEffect("transformers 5 puts CLIP's own in their place"),
    ),
  },
};
