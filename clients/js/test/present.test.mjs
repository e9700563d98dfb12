// The page of before, and the same page with one line changed.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { test } from 'node:test';

import WebSocket from 'ws';

import { assertSorted, newSite, now, Proxy, send, Server, sleep, storm, until } from './support.mjs';
import { Page } from './present.mjs';

const OPTIONS = { WebSocket, backoff: [0.005, 0.05], hold: 60 };

// The lines that are changed in docs/clients.md too.
async function after() {
  const before = await readFile(new URL('present.mjs', import.meta.url), 'utf8');
  const docs = await readFile(new URL('../../../docs/clients.md', import.meta.url), 'utf8');
  const [, removed, added] = /^-(import ReconnectingWebSocket .*)\n\+(.*)$/m.exec(docs);
  assert.ok(before.includes(`\n${removed}\n`));
  const changed = before.replace(removed, added.replace('./logstream.js', '../logstream.js'));
  const file = new URL('present-after.mjs', import.meta.url);
  await writeFile(file, changed);
  return (await import(file)).Page;
}

async function open(t, Page, url, site, options) {
  const page = new Page(url.replace('http', 'ws'), url, site, options);
  t.after(() => page.socket.close());
  await until(() => page.isLoaded && page.socket.readyState === WebSocket.OPEN);
  await sleep(200);
  return page;
}

test('The page of before loses what is sent while it is away, and the changed one does not', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  await server.post({ site, log_message: 'before', timestamp: now() - 100 });
  const quick = { WebSocket, minReconnectionDelay: 100, maxReconnectionDelay: 100 };
  const pages = [
    await open(t, Page, proxy.url, site, quick),
    await open(t, await after(), proxy.url, site, OPTIONS),
  ];
  // Not through the proxy: it tells when what is missed has been sent to all.
  const witness = new WebSocket(`${server.url.replace('http', 'ws')}?site=${site}`);
  await once(witness, 'open');
  let sent = 0;
  witness.on('message', () => { sent += 1; });
  proxy.isRefusing = true;
  proxy.cut();
  await server.post({ site, log_message: 'missed' });
  await server.post({ site, log_message: 'missed, by a slow clock', timestamp: now() - 50 });
  await until(() => sent === 2);
  witness.close();
  proxy.isRefusing = false;
  const texts = (page) => page.logs.map(({ message }) => message);
  await until(() => texts(pages[1]).length === 3);
  await until(() => pages[0].socket.readyState === WebSocket.OPEN);
  await server.post({ site, log_message: 'live' });
  await until(() => texts(pages[0]).includes('live') && texts(pages[1]).includes('live'));
  assert.deepEqual(texts(pages[0]), ['before', 'live']);
  assert.deepEqual(texts(pages[1]), ['before', 'missed, by a slow clock', 'missed', 'live']);
  // In the form of a frame.
  const [, , missed, live] = pages[1].logs;
  assert.deepEqual(Object.keys(missed).sort(), ['id', 'log_level', 'message', 'site', 'timestamp']);
  assert.deepEqual(Object.keys(live).sort(), Object.keys(missed).sort());
  assert.match(missed.timestamp, /^\d+$/);
});

test('Through 100 cuts the changed page appends everything once and in order', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  const page = await open(t, await after(), proxy.url, site, OPTIONS);
  const sender = send(server, site, { isDisordered: false });
  await storm(proxy, 100, () => page.socket.readyState === WebSocket.OPEN);
  const texts = await sender.stop();
  await until(() => page.logs.length >= texts.length, () => `${page.logs.length} of ${texts.length}`);
  assert.deepEqual(page.logs.map(({ message }) => message), texts);
  assertSorted(page.logs);
});

test('The changed page sends, hears errors, and can leave its request for the history out', async (t) => {
  const server = await Server.start(t);
  const { default: Socket } = await import('../logstream.js');
  const site = newSite();
  await server.post({ site, log_message: 'before', timestamp: now() - 100 });
  const events = [];
  // The two APIs of a deployment have two addresses.
  const proxy = await Proxy.start(t, server);
  const Bound = Socket.at(server.url);
  const socket = new Bound(`${proxy.url.replace('http', 'ws')}?site=${site}`, [], { ...OPTIONS, history: 3600 });
  for (const type of ['open', 'message', 'close']) {
    socket.addEventListener(type, ({ data }) => events.push(data ? JSON.parse(data).message : type));
  }
  socket.send(JSON.stringify({ action: 'newlog', site, log_message: 'sent', timestamp: now() }));
  await until(() => events.includes('sent'));
  socket.send(JSON.stringify({ action: 'dance' }));
  await until(() => events.includes('Unrecognized WebSocket action.'));
  socket.close();
  assert.equal(socket.readyState, WebSocket.CLOSED);
  assert.deepEqual([proxy.sockets, proxy.histories], [1, []]);
  await until(() => events.at(-1) === 'close');
  assert.deepEqual(events.filter((event) => event !== 'open'), ['before', 'sent', 'Unrecognized WebSocket action.', 'close']);
});

test('What the replacement cannot do it refuses by name', async (t) => {
  const server = await Server.start(t);
  const { default: Socket } = await import('../logstream.js');
  const url = server.url.replace('http', 'ws');
  assert.throws(() => new Socket(`${url}/?topic=userstatus&?site=rws`, [], OPTIONS), { name: 'TypeError', message: /`topic` in the address is not supported/ });
  assert.throws(() => new Socket(() => url, [], OPTIONS), { name: 'TypeError', message: 'The address is a function; expected a string or a URL.' });
  assert.throws(() => new Socket(`${url}?site=tst&level=loud`, [], OPTIONS), { name: 'TypeError', message: /^`level` is none of debug,/ });
  const socket = new Socket(new URL(`${url}?site=tst&level=WARNING`), [], OPTIONS);
  t.after(() => socket.close());
  assert.equal(socket.readyState, socket.CONNECTING);
  assert.deepEqual([socket.OPEN, socket.CLOSING, socket.CLOSED], [Socket.OPEN, Socket.CLOSING, Socket.CLOSED]);
  await until(() => socket.readyState === socket.OPEN);
});
