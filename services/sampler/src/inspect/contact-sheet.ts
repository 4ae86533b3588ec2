/** Some images of a data set on one sheet, spread over all of it. */
import sharp from 'sharp';

export interface SheetCell {
  index: number;
  position: string;
  caption: string;
}

export class ContactSheet {
  readonly #side: number;
  readonly #columns: number;
  readonly #most: number;
  /** Images whose number is a multiple of this are kept; doubled whenever the sheet is full. */
  #stride = 1;
  #cells: { cell: SheetCell; png: Buffer }[] = [];

  constructor({
    side = 128,
    columns = 8,
    rows = 6,
  }: { side?: number; columns?: number; rows?: number } = {}) {
    this.#side = side;
    this.#columns = columns;
    this.#most = columns * rows;
  }

  async offer(bytes: Buffer, cell: SheetCell): Promise<void> {
    if (cell.index % this.#stride !== 0) return;
    const png = await sharp(bytes)
      .rotate()
      .resize(this.#side, this.#side, { fit: 'contain', background: '#ffffff' })
      .flatten({ background: '#ffffff' })
      .toColourspace('srgb')
      .png()
      .toBuffer();
    this.#cells.push({ cell, png });
    if (this.#cells.length < 2 * this.#most) return;
    this.#stride *= 2;
    this.#cells = this.#cells.filter((kept) => kept.cell.index % this.#stride === 0);
  }

  /** The PNG, and what its cells show from left to right and top to bottom; null without images. */
  async render(): Promise<{ png: Buffer; cells: SheetCell[] } | null> {
    const step = Math.max(1, Math.ceil(this.#cells.length / this.#most));
    const shown = this.#cells.filter((_, i) => i % step === 0);
    if (shown.length === 0) return null;
    const columns = Math.min(this.#columns, shown.length);
    const gap = 4;
    const pitch = this.#side + gap;
    const png = await sharp({
      create: {
        width: columns * pitch + gap,
        height: Math.ceil(shown.length / columns) * pitch + gap,
        channels: 3,
        background: '#808080',
      },
    })
      .composite(
        shown.map(({ png: input }, i) => ({
          input,
          left: gap + (i % columns) * pitch,
          top: gap + Math.floor(i / columns) * pitch,
        })),
      )
      .png()
      .toBuffer();
    return { png, cells: shown.map(({ cell }) => cell) };
  }
}
