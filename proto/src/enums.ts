/** Values of enums by the names that people write: OBJECTIVE_SPIN_HINGE is "spin_hinge". */
import type { DescEnum, EnumShape } from '@bufbuild/protobuf';

/** "spin_hinge" of Objective.SPIN_HINGE. */
export function enumName<Desc extends DescEnum>(schema: Desc, value: EnumShape<Desc>): string {
  return schema.value[value]?.localName.toLowerCase() ?? String(value);
}

/** Objective.SPIN_HINGE of "spin_hinge". */
export function enumValue<Desc extends DescEnum>(schema: Desc, name: string): EnumShape<Desc> {
  const values = schema.values.filter(({ localName }) => localName !== 'UNSPECIFIED');
  const found = values.find(({ localName }) => localName.toLowerCase() === name);
  if (found === undefined) {
    const names = values.map(({ localName }) => localName.toLowerCase()).join(', ');
    throw new TypeError(`${schema.name}: expected one of ${names}, got "${name}"`);
  }
  return found.number as EnumShape<Desc>;
}
