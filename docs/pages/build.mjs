// Checks the descriptions and writes the pages into "out".

import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises';

import { Parser } from '@asyncapi/parser';
import yaml from 'js-yaml';

const beside = (name) => new URL(name, import.meta.url);

const text = await readFile(beside('../asyncapi.yaml'), 'utf8');
const { diagnostics } = await new Parser().parse(text);
// 0 is an error, 1 a warning. Below that are such as a newer version of AsyncAPI.
const faults = diagnostics.filter(({ severity }) => severity <= 1);
for (const { code, message, path, range } of faults) {
  console.error(`docs/asyncapi.yaml:${range.start.line + 1}: ${message} (${code}, at ${path.join('.')})`);
}
if (faults.length) process.exit(1);

const http = yaml.load(await readFile(beside('../openapi.yaml'), 'utf8'));
const websocket = yaml.load(text);

// Swagger UI would look for references at the address of the page, which it
// cannot read if it is a file's.
const resolved = (node) => {
  if (typeof node?.$ref === 'string') {
    return resolved(node.$ref.slice(2).split('/').reduce((at, name) => at[name], http));
  }
  if (Array.isArray(node)) return node.map(resolved);
  if (node === null || typeof node !== 'object') return node;
  return Object.fromEntries(Object.entries(node).map(([name, value]) => [name, resolved(value)]));
};

const page = (title, styles, scripts, description, call) => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
${styles.map((style) => `<link rel="stylesheet" href="${style}">`).join('\n')}
<body>
<div id="page"></div>
${scripts.map((script) => `<script src="${script}"></script>`).join('\n')}
<script>
const description = ${JSON.stringify(description).replaceAll('<', '\\u003c')};
${call}
</script>
`;

const out = beside('out/');
await rm(out, { recursive: true, force: true });
await mkdir(out);
for (const [from, to] of [
  ['swagger-ui-dist/swagger-ui.css', 'openapi.css'],
  ['swagger-ui-dist/swagger-ui-bundle.js', 'openapi.js'],
  ['@asyncapi/react-component/styles/default.min.css', 'asyncapi.css'],
  ['@asyncapi/react-component/browser/standalone/index.js', 'asyncapi.js'],
]) {
  await copyFile(beside(`node_modules/${from}`), new URL(to, out));
}
await writeFile(new URL('openapi.html', out), page(
  'logstream, HTTP API', ['openapi.css'], ['openapi.js'], resolved(http),
  "SwaggerUIBundle({ spec: description, domNode: document.getElementById('page'), docExpansion: 'full', defaultModelsExpandDepth: -1 });",
));
await writeFile(new URL('asyncapi.html', out), page(
  'logstream, WebSocket API', ['asyncapi.css'], ['asyncapi.js'], websocket,
  "AsyncApiStandalone.render({ schema: description, config: { show: { sidebar: true }, expand: { messageExamples: true } } }, document.getElementById('page'));",
));
await writeFile(new URL('index.html', out), `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>logstream</title>
<style>body { font: 1.1rem/1.6 system-ui, sans-serif; margin: 3rem auto; max-width: 34rem; padding: 0 1rem }</style>
<h1>logstream</h1>
<ul>
<li><a href="openapi.html">The HTTP API</a>: sending messages, and reading those of the last days
<li><a href="asyncapi.html">The WebSocket API</a>: receiving messages as they come, and sending
</ul>
`);
console.log('docs/asyncapi.yaml is valid; the pages are in docs/pages/out');
