/** Keys that any config of a transformers model may have. */
import { all, engineOnly, noEffect, type KeyRules } from './rules.js';

export const commonKeys: KeyRules = {
  ...all(
    ['is_decoder', 'is_encoder_decoder', 'tie_encoder_decoder', 'add_cross_attention'],
    engineOnly(false, null),
  ),
  ...all(
    ['cross_attention_hidden_size', 'quantization_config', 'per_layer_config'],
    engineOnly(null),
  ),
  pruned_heads: engineOnly({}, null),
  ...all(
    [
      ...['architectures', 'transformers_version', 'name_or_path', 'tokenizer_class', 'model_type'],
      ...['finetuning_task', 'task_specific_params', 'problem_type', 'prefix', 'num_labels'],
      ...['id2label', 'label2id', 'auto_map'],
    ],
    noEffect('it names things, and no forward reads it'),
  ),
  ...all(
    [
      'dtype',
      'torch_dtype',
      'use_bfloat16',
      'torchscript',
      'tf_legacy_loss',
      'gradient_checkpointing',
    ],
    noEffect("the run's precision and our own code take its place"),
  ),
  ...all(
    ['output_hidden_states', 'output_attentions', 'return_dict', 'use_return_dict', 'use_cache'],
    noEffect('it chooses what a call returns, not what it computes'),
  ),
  ...all(
    ['attn_implementation', 'experts_implementation', 'chunk_size_feed_forward'],
    noEffect('it chooses among ways to compute the same'),
  ),
  ...all(
    ['initializer_range', 'initializer_factor'],
    noEffect('it is of random initialisation; weights come from the file'),
  ),
  ...all(
    ['attention_dropout', 'dropout'],
    noEffect('it counts in training alone, and these models are not trained here'),
  ),
  ...all(
    ['tie_word_embeddings', 'tie_last_hidden_states', 'rope_scaling', 'rope_theta'],
    noEffect('no part of a CLIP model reads it'),
  ),
  ...all(
    [
      ...['bos_token_id', 'pad_token_id', 'sep_token_id', 'decoder_start_token_id'],
      ...['forced_bos_token_id', 'forced_eos_token_id', 'bad_words_ids', 'suppress_tokens'],
      ...['begin_suppress_tokens', 'max_length', 'min_length', 'do_sample', 'early_stopping'],
      ...['num_beams', 'num_beam_groups', 'temperature', 'top_k', 'top_p', 'typical_p'],
      ...['repetition_penalty', 'length_penalty', 'diversity_penalty', 'no_repeat_ngram_size'],
      ...['encoder_no_repeat_ngram_size', 'num_return_sequences', 'output_scores'],
      ...['return_dict_in_generate', 'remove_invalid_values', 'exponential_decay_length_penalty'],
    ],
    noEffect('it is of text generation; the tokenizer brings the ids of its own tokens'),
  ),
};
