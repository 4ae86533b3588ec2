import { all, noEffect, only, read, type ConfigKeys } from './rules.js';

export const imageProcessorKeys: ConfigKeys = {
  file: 'preprocessor_config.json, or image_processor of processor_config.json',
  of: 'CLIPImageProcessor',
  library: 'transformers',
  keys: {
    ...all(['size', 'crop_size', 'image_mean', 'image_std', 'resample'], read),
    ...all(
      ['do_resize', 'do_center_crop', 'do_rescale', 'do_normalize'],
      // null is the class's own, which is true.
      only(true, null),
    ),
    ...all(['do_pad', 'use_square_size', 'default_to_square'], only(false, null)),
    pad_size: noEffect('it is of do_pad, which is refused'),
    rescale_factor: read,
    ...all(
      ['image_processor_type', 'feature_extractor_type'],
      only(
        ...['CLIPImageProcessor', 'CLIPImageProcessorFast', 'CLIPImageProcessorPil'],
        ...['CLIPFeatureExtractor', null],
      ),
    ),
    do_convert_rgb: noEffect('every image is RGB before it comes here'),
    ...all(
      ['processor_class', 'auto_map', 'data_format', 'input_data_format', 'return_tensors'],
      noEffect('it names things, or says how arrays of the library lie in memory'),
    ),
    ...all(
      ['device', 'disable_grouping', 'image_seq_length'],
      noEffect('it chooses where and in what portions the same is computed'),
    ),
  },
};
