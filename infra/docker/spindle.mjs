// The image's one program: the name of a service starts it, anything else is for the `spindle`
// command.
const services = ['evaluator', 'gateway', 'sampler', 'scorer', 'trainer'];

const [name] = process.argv.slice(2);
const folder = name === 'gateway' ? 'gateway' : `services/${name}`;
const program = services.includes(name)
  ? new URL(`../../${folder}/dist/main.js`, import.meta.url)
  : new URL('../../gateway/bin/spindle.js', import.meta.url);
if (services.includes(name)) process.argv.splice(2, 1);
await import(program.href);
