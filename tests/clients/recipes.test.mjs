// Every snippet of docs/clients.md and docs/contract.md, run as it stands there
// but for the address and the site.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { chromium } from 'playwright-core';

import { describedFrame, parseReceived } from './described.mjs';
import { httpUrl, newSite, now, onlyLocal, post, until, wsUrl } from './support.mjs';

const beside = (name) => fileURLToPath(new URL(name, import.meta.url));
const client = pathToFileURL(beside('../../clients/js/logstream.js')).href;
const options = { ...onlyLocal('the pages name the local server'), timeout: 60_000 };

// The blocks of a page, by the heading above them.
async function blocksOf(page) {
  const blocks = new Map();
  let heading;
  const pattern = /^#+ ([^\n]*)$|^```(\w*)\n(.*?)^```$/gms;
  for (const [, title, language, code] of (await readFile(beside(`../../docs/${page}`), 'utf8')).matchAll(pattern)) {
    if (title !== undefined) heading = title;
    else blocks.set(`${heading}: ${language}`, [...blocks.get(`${heading}: ${language}`) ?? [], code]);
  }
  return blocks;
}
const pages = { clients: await blocksOf('clients.md'), contract: await blocksOf('contract.md') };

// Takes blocks from a page, so that none is left in the end.
function take(page, name, count = 1) {
  const blocks = pages[page].get(name);
  assert.equal(blocks?.length, count, `docs/${page}.md has other blocks "${name}"`);
  pages[page].delete(name);
  return count === 1 ? blocks[0] : blocks;
}

// The function before and after, the shorter code, and the handler.
const scripts = take('clients', 'Change one line: python', 4);

const here = (code, site) => code
  .replaceAll('http://127.0.0.1:3000', httpUrl)
  .replaceAll('ws://127.0.0.1:3000', wsUrl)
  .replaceAll('"127.0.0.1:3000"', JSON.stringify(new URL(httpUrl).host))
  .replace(/(?<=["' =])tst(?=["' &]|$)/gm, site);

// Starts a program in a group of its own. The end of the test ends it.
function start(t, program, flags, input, environment) {
  const child = spawn(program, flags, {
    cwd: beside('.'),
    detached: true,
    env: {
      ...process.env,
      PATH: `${beside('.venv/bin')}:${process.env.PATH}`,
      PYTHONPATH: beside('../../clients/python/src'),
      PYTHONDONTWRITEBYTECODE: '1',
      ...environment,
    },
  });
  child.stdout.setEncoding('utf8').on('data', (data) => { child.printed += data; });
  child.stderr.setEncoding('utf8').on('data', (data) => { child.failed += data; });
  child.printed = child.failed = '';
  child.done = once(child, 'close');
  child.stdin.end(input);
  t.after(async () => {
    try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ }
    await child.done;
  });
  return child;
}

// Runs a program to its end, and returns what it printed.
async function run(t, program, flags, input) {
  const child = start(t, program, flags, input);
  const [code] = await child.done;
  assert.equal(code, 0, `${child.printed}${child.failed}\n${input ?? flags.at(-1)}`);
  return child.printed;
}

const python = (t, code) => run(t, beside('.venv/bin/python'), ['-'], code);
const shell = (t, code) => run(t, 'bash', ['-euo', 'pipefail'], code);
const node = (t, code) => run(t, process.execPath, ['--input-type=module'], `
  import socketOfNode from 'ws';
  import { setTimeout as sleep } from 'node:timers/promises';
  globalThis.WebSocket ??= socketOfNode;
  const until = async (condition) => { while (!condition()) await sleep(10); };
  ${code}`);

async function stored(site) {
  const answer = await fetch(`${httpUrl}/recent-logs?site=${site}`);
  return (await answer.json()).reverse().map(({ message, log_level }) => [message, log_level]);
}

const untilWatched = (site) => until(async () => {
  const answer = await fetch(`${httpUrl}/onlineusers?site=${site}`);
  return (await answer.json()).length > 0;
});

test('A script in Python sends the same before and after the change of one line', options, async (t) => {
  const site = newSite();
  for (const block of scripts.slice(0, 2)) {
    await python(t, `${here(block, site)}\ntell("Exposure 1")\ntell(ValueError("Clouds"), "WARN")`);
  }
  const sent = [['Exposure 1', 'info'], ['Clouds', 'warning']];
  assert.deepEqual(await stored(site), [...sent, ...sent]);
});

test('New code in Python and the handler for logging send', options, async (t) => {
  const site = newSite();
  const [brief, handler] = scripts.slice(2);
  await python(t, here(brief, site));
  await python(t, `${here(handler, site)}\nlogging.info("logged")`);
  assert.deepEqual(await stored(site), [['Dome opened', 'info'], ['Clouds from the west', 'warning'], ['logged', 'info']]);
});

test('With a spool a script in Python sends too', options, async (t) => {
  const site = newSite();
  const folder = await mkdtemp(join(tmpdir(), 'logstream-'));
  t.after(() => rm(folder, { recursive: true }));
  const block = here(take('clients', 'The spool: python'), site).replace('/var/lib/observatory/spool', folder);
  await python(t, `import logstream\n${block}\nlogstream.send("spooled")`);
  assert.deepEqual(await stored(site), [['spooled', 'info']]);
});

test('The command line of the Python client sends, and shows what comes', options, async (t) => {
  // clients/python/run does that.
  assert.equal(take('clients', 'Python: observatory scripts: sh'), 'pip install ./clients/python\n');
  const site = newSite();
  const folder = await mkdtemp(join(tmpdir(), 'logstream-'));
  t.after(() => rm(folder, { recursive: true }));
  await writeFile(join(folder, 'telescope.log'), 'Slewing\nTracking\n');
  const [send, keep, follow, tail] = here(take('clients', 'On the command line: sh'), site).trim().split('\n');
  await shell(t, send);
  await shell(t, `cd ${folder} && ${keep}`);
  start(t, 'bash', ['-c', `cd ${folder} && ${follow}`]);
  await until(async () => (await stored(site)).length === 4, async () => JSON.stringify(await stored(site)));
  assert.deepEqual(await stored(site), [['Dome opened', 'warning'], ['Dome closed', 'info'], ['Slewing', 'info'], ['Tracking', 'info']]);
  const watching = start(t, 'bash', ['-c', `exec ${tail}`]);
  await untilWatched(site);
  await post({ site, log_message: 'live' });
  await until(() => /Slewing[^]*Tracking[^]*live/.test(watching.printed), () => watching.printed);
});

// The section on the binary's own commands, once it is there.
const own = 'On the command line: `logstream`: sh';
const commands = { ...options, ...pages.clients.has(own) ? {} : { skip: 'the page has no such section' } };
test("The binary's own commands do what the page says, each line of it", commands, async (t) => {
  const site = newSite();
  const folder = await mkdtemp(join(tmpdir(), 'logstream-'));
  t.after(() => rm(folder, { recursive: true }));
  const environment = {
    PATH: `${dirname(process.env.LOGSTREAM_SERVER)}:${process.env.PATH}`,
    LOGSTREAM_CONFIG: join(folder, 'config.toml'),
    LOGSTREAM_PROFILE: 'here',
  };
  await writeFile(environment.LOGSTREAM_CONFIG, here(take('clients', 'Deployments by name: toml'), site));
  await writeFile(join(folder, 'prod.key'), 'key');
  const blocks = [take('clients', own), take('clients', 'Deployments by name: sh')];
  // Into a pipe, jq would print nothing until its end.
  for (const line of here(blocks.join('').replace('| jq', '| jq --unbuffered'), site).trim().split('\n')) {
    const child = start(t, 'bash', ['-euo', 'pipefail', '-c', line], undefined, environment);
    if (/^logstream tail/.test(line)) {
      await until(() => child.printed.includes('\n'), () => `${line}: ${child.printed}${child.failed}`);
    } else {
      assert.deepEqual([(await child.done)[0], child.failed], [0, ''], line);
    }
  }
  const sent = [['Dome opened', 'info'], ...['1', '2', '3'].map((number) => [number, 'warning']), ['Dome opened', 'info']];
  assert.deepEqual(await stored(site), sent);
  // A line of `tail --json`.
  const shown = JSON.parse(take('clients', `${own.slice(0, -2)}json`));
  assert.deepEqual(Object.keys(shown), ['site', 'id', 'message', 'log_level', 'timestamp']);
});

test('The function for the shell sends any text, and the warnings can be read', options, async (t) => {
  const site = newSite();
  const [send, read] = take('clients', 'Shell: sh', 2);
  await shell(t, here(send, site));
  assert.deepEqual(await stored(site), [['Dome "A" opened', 'info'], ['Wind & clouds', 'warning']]);
  const warnings = JSON.parse(await shell(t, here(read, site)));
  assert.deepEqual(warnings.map(({ message }) => message), ['Wind & clouds']);
  // It is told when nothing was stored.
  const wrong = here(send, 'x'.repeat(1025));
  await assert.rejects(shell(t, wrong), /error: 400\n.*'site' is 1025 bytes long/);
});

test('A page that uses reconnecting-websocket shows the same with the other import', options, async (t) => {
  // clients/js/run makes this change in a page, and compares the two.
  const change = take('clients', 'A page that uses `reconnecting-websocket`: diff');
  const [page, own] = take('clients', 'A page that uses `reconnecting-websocket`: js', 2);
  const [, before, changed] = /^-(.*)\n\+(.*)$/m.exec(change);
  for (const line of [before, changed, own.trim()]) {
    const site = newSite();
    await post({ site, log_message: 'before', timestamp: now() - 10 });
    await node(t, `
      ${line.replace('./logstream.js', client).replace('; const', `;\nconst api = ${JSON.stringify(httpUrl)};\nconst`)}
      import axios from 'axios';
      const endpoint = ${JSON.stringify(wsUrl)}, site = ${JSON.stringify(site)};
      ${line.includes('const') ? '' : `const api = ${JSON.stringify(httpUrl)};`}
      const page = { logs: [] };
      await async function () { ${page} }.call(page);
      await until(() => page.socket.readyState === 1);
      const message = JSON.stringify({ site, log_message: 'live' });
      await fetch(api + '/newlog', { method: 'POST', body: message });
      await until(() => page.logs.length === 2);
      if (page.logs.map(({ message }) => message).join() !== 'before,live') throw new Error(JSON.stringify(page.logs));
      process.exit(0);`);
  }
});

test('A new page gets the history and what comes, and can change the site', options, async (t) => {
  const site = newSite();
  await post({ site, log_message: 'before' });
  const block = here(take('clients', 'A new page: js'), site).replace('./logstream.js', client);
  const [watching, change] = block.split(/^(?=watching\.show)/m);
  await node(t, `
    const http = ${JSON.stringify(httpUrl)}, ws = ${JSON.stringify(wsUrl)}, lists = [], states = [];
    ${watching.replace('// The whole list', 'lists.push(list);\n    // The whole list').replace("// 'connecting'", "states.push(state);\n    // 'connecting'")}
    await until(() => states.at(-1) === 'live' && lists.at(-1)?.[0]?.message === 'before');
    ${change}
    process.exit(0);`);
});

test('A plain WebSocket prints what comes', options, async (t) => {
  const site = newSite();
  const child = start(t, process.execPath, ['--input-type=module'], `
    import socketOfNode from 'ws';
    globalThis.WebSocket ??= socketOfNode;
    ${here(take('clients', 'A plain WebSocket: js'), site)}`);
  await untilWatched(site);
  await post({ site, log_message: 'too little', log_level: 'debug' });
  await post({ site, log_message: 'live', log_level: 'warn' });
  await until(() => child.printed.includes('\n'), () => child.printed);
  assert.equal(child.printed, 'warning live\n');
});

test('The mixin for Vue shows what comes', options, async (t) => {
  const site = newSite();
  await post({ site, log_message: 'before', timestamp: now() - 10 });
  const files = {
    '/favicon.ico': '',
    '/': '<!doctype html><div id="app"></div><script src="vue.js"></script><script type="module">import app from "./app.js"; Vue.createApp(app).mount("#app")</script>',
    '/app.js': here(take('clients', 'Vue 2 and 3: js'), site),
    '/vue.js': await readFile(beside('node_modules/vue/dist/vue.global.prod.js'), 'utf8'),
    '/examples/vue.js': await readFile(beside('../../clients/js/examples/vue.js'), 'utf8'),
    '/logstream.js': await readFile(beside('../../clients/js/logstream.js'), 'utf8'),
  };
  // Not by Playwright, because Chromium would not let such a page ask this machine.
  const server = createServer(({ url }, answer) => {
    answer.writeHead(url in files ? 200 : 404, { 'Content-Type': url === '/' ? 'text/html' : 'text/javascript' }).end(files[url]);
  }).listen(0, '127.0.0.1');
  t.after(() => server.close());
  await once(server, 'listening');
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic'] });
  t.after(() => browser.close());
  const page = await browser.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (entry) => errors.push(entry.text()));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const rows = page.getByRole('listitem');
  await rows.filter({ hasText: 'before' }).waitFor();
  await rows.filter({ hasText: 'may be missing' }).waitFor({ state: 'hidden' });
  await post({ site, log_message: 'live' });
  await rows.filter({ hasText: 'live' }).waitFor();
  assert.deepEqual(await rows.allTextContents(), ['before', 'live']);
  assert.deepEqual(errors, []);
});

test("The contract's scripts send", options, async (t) => {
  const site = newSite();
  const [plain, handler] = take('contract', 'Sending over HTTP: python', 2);
  await python(t, here(plain, site));
  await python(t, here(handler, site));
  assert.deepEqual(await stored(site), [['Dome opened', 'info'], ['Dome does not answer', 'error']]);
});

test("The contract's function leaves no gap", options, async (t) => {
  const site = newSite();
  await post({ site, log_message: 'before', timestamp: now() - 10 });
  await node(t, `
    ${take('contract', 'Staying connected: js')}
    const texts = [], http = ${JSON.stringify(httpUrl)};
    watch(http, ${JSON.stringify(wsUrl)}, ${JSON.stringify(site)}, 3600, ({ message }) => texts.push(message));
    await until(() => texts.length === 1);
    await fetch(http + '/newlog', { method: 'POST', body: JSON.stringify({ site: ${JSON.stringify(site)}, log_message: 'live' }) });
    await until(() => texts.length === 2);
    if (texts.join() !== 'before,live') throw new Error(texts.join());
    process.exit(0);`);
});

test("The contract's frames and bodies are as described, and the server takes them", options, async () => {
  for (const [name, blocks] of pages.contract) {
    if (!name.endsWith(': json')) continue;
    for (const block of blocks) {
      const value = JSON.parse(block);
      const [first] = [value].flat();
      if (name.startsWith('Sending over HTTP')) {
        const answer = await fetch(`${httpUrl}/newlog`, { method: 'POST', body: block.replaceAll('"tst"', `"${newSite()}"`) });
        assert.equal(answer.status, 200, await answer.text());
      } else if (first.action && first.action !== 'subscribed') {
        describedFrame(first);
      } else if (!Array.isArray(value)) {
        parseReceived(block);
      }
    }
    pages.contract.delete(name);
  }
});

test('Every snippet was run', options, () => {
  // Those without a language are headers, and lines that are cut short.
  const left = Object.entries(pages).flatMap(([page, blocks]) => [...blocks.keys()].map((name) => `${page}.md, ${name}`));
  assert.deepEqual(left.filter((name) => !name.endsWith(': ')), [], 'no test runs these');
});
