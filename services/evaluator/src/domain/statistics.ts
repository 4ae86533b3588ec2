/** What is said of a model's scores by one judge. Numbers come from @spindle/kit's statistics. */
import type { Against } from '@spindle/kit/domain';

export interface Statistics extends Against {
  mean: number;
  meanLow: number;
  meanHigh: number;
  median: number;
  standardError: number;
  /** Prompts, and images. */
  n: number;
  images: number;
  /** Where a prompt has several images: the best of them, and that against the base's best. */
  bestOf: (Against & { images: number; mean: number }) | null;
}

/** The mean over the prompts that models are chosen by. */
export interface Selection {
  mean: number;
  /** Prompts. */
  n: number;
}

/** A judge, as the scorer described it. */
export interface Judge {
  kind: string;
  files: { name: string; digest: string }[];
  variant: string;
  scale: string;
  preprocess: string;
}

/** Of the model with the best mean by the first judge, against every other model. */
export interface BestAgainst extends Against {
  metric: string;
  best: string;
  model: string;
}
