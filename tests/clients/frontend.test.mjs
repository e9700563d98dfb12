// The web frontend that has a socket for the messages alone.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';

import { Frontend } from './frontend.mjs';
import { newSite, now, onlyLocal, post, Server } from './support.mjs';

test('A message of a script arrives as one frame with exactly the five fields', async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site);
  await post({ site, log_message: 'Dome öffnet\n🔭', log_level: 'WARN', timestamp: 1604514063.418301 });
  await frontend.untilShown(1);
  assert.deepEqual(frontend.frames, [
    { site, message: 'Dome öffnet\n🔭', log_level: 'warning', timestamp: '1604514063', id: '1604514063.418301' },
  ]);
});

test('On load, history and live messages sort together by their timestamps', async (t) => {
  const site = newSite();
  const start = now() - 100;
  // A client that connects between store and broadcast would get both.
  const earlier = await Frontend.connect(t, site);
  await post({ site, log_message: 'first', log_level: 'DEBUG', timestamp: start });
  await post({ site, log_message: 'third', log_level: 'error', timestamp: start + 20.75 });
  await earlier.untilShown(2);
  const frontend = await Frontend.connect(t, site);
  await post({ site, log_message: 'second', timestamp: start + 10 });
  await frontend.untilShown(1);

  assert.deepEqual(await frontend.history(), [
    { message: 'third', log_level: 'error', timestamp: start + 20.75, id: `${start + 20}.750000` },
    { message: 'second', log_level: 'info', timestamp: start + 10, id: `${start + 10}.000000` },
    { message: 'first', log_level: 'debug', timestamp: start, id: `${start}.000000` },
  ]);
  const shown = await frontend.load();
  assert.deepEqual(shown.map((line) => [line.message, typeof line.timestamp]), [
    ['first', 'number'],
    ['second', 'string'], // as a frame
    ['second', 'number'], // in the history
    ['third', 'number'],
  ]);
});

test('On load, messages of one second stand in the order of their arrival, the latest at the end', async (t) => {
  const site = newSite();
  const timestamp = now() - 100;
  const texts = ['Slewing', 'Tracking', 'Exposing', 'Reading out'];
  const earlier = await Frontend.connect(t, site);
  for (const text of texts) await post({ site, log_message: text, timestamp });
  await earlier.untilShown(texts.length);
  const frontend = await Frontend.connect(t, site);
  const shown = await frontend.load();
  assert.deepEqual(shown.map((line) => line.message), texts);
  assert.deepEqual(shown.at(-1), (await frontend.history())[0]);
});

test('A message sent over the socket comes back as its broadcast and nothing else', async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site);
  const timestamp = now();
  frontend.send({ action: 'newlog', log_message: 'by socket', site, log_level: 'error', timestamp });
  await frontend.untilShown(1);
  // A second answer to the first message would come before this.
  frontend.send({ action: 'newlog', log_message: 'afterwards', site, log_level: 'info', timestamp: timestamp + 1 });
  await frontend.untilShown(2);
  assert.deepEqual(frontend.frames, [
    { site, message: 'by socket', log_level: 'error', timestamp: `${timestamp}`, id: `${timestamp}.000000` },
    { site, message: 'afterwards', log_level: 'info', timestamp: `${timestamp + 1}`, id: `${timestamp + 1}.000000` },
  ]);
});

test('A change of the site is a socket of its own, and the one before gets nothing more', async (t) => {
  const [site, other] = [newSite(), newSite()];
  const timestamp = now() - 100;
  const before = await Frontend.connect(t, site);
  await post({ site, log_message: 'here', timestamp });
  await before.untilShown(1);
  before.socket.close();
  const after = await Frontend.connect(t, other);
  await post({ site, log_message: 'here still', timestamp: timestamp + 1 });
  await post({ site: other, log_message: 'there', timestamp });
  await after.untilShown(1);
  assert.deepEqual(after.frames, [
    { site: other, message: 'there', log_level: 'info', timestamp: `${timestamp}`, id: `${timestamp}.000000` },
  ]);
  assert.deepEqual(before.frames.map((frame) => frame.message), ['here']);
  assert.deepEqual((await after.history()).map((line) => line.message), ['there']);
});

test('A message posted without a level is an info', async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site);
  const timestamp = now();
  const response = await frontend.post({ log_message: 'by HTTP', site, timestamp });
  assert.equal(response.status, 200);
  await frontend.untilShown(1);
  assert.deepEqual(frontend.frames, [
    { site, message: 'by HTTP', log_level: 'info', timestamp: `${timestamp}`, id: `${timestamp}.000000` },
  ]);
});

test('A bad message over the socket is answered with an error to its sender alone', async (t) => {
  const site = newSite();
  const sender = await Frontend.connect(t, site);
  const other = await Frontend.connect(t, site);
  const start = now();
  sender.send({ action: 'newlog', log_message: 7, site, log_level: 'info', timestamp: start });
  await sender.untilShown(1);
  sender.send({ action: 'dance', site });
  await sender.untilShown(2);
  await post({ site, log_message: 'afterwards', timestamp: start });
  await Promise.all([sender.untilShown(3), other.untilShown(1)]);

  const [refused, unrecognized, ...rest] = sender.frames;
  for (const error of [refused, unrecognized]) {
    assert.deepEqual(Object.keys(error).sort(), ['log_level', 'message', 'site', 'timestamp']);
    assert.equal(error.site, site);
    assert.equal(error.log_level, 'error');
    assert.match(error.timestamp, /^\d+$/);
    assert.ok(start <= Number(error.timestamp) && Number(error.timestamp) <= now());
  }
  assert.match(refused.message, /log_message/);
  assert.equal(unrecognized.message, 'Unrecognized WebSocket action.');
  assert.deepEqual(rest.map((frame) => frame.message), ['afterwards']);
  assert.deepEqual(other.frames.map((frame) => frame.message), ['afterwards']);
});

test(
  'After a restart of the server the frontend reconnects by itself and gets new messages',
  onlyLocal('a deployment cannot be restarted from here'),
  async (t) => {
    const site = newSite();
    const server = await Server.start(t);
    const frontend = await Frontend.connect(t, site, server);
    await post({ site, log_message: 'before', timestamp: now() }, server.httpUrl);
    await frontend.untilShown(1);

    const closed = once(frontend.socket, 'close');
    await server.stop('SIGTERM');
    await closed;
    await server.start();
    await frontend.untilOpen();
    await post({ site, log_message: 'after', timestamp: now() }, server.httpUrl);
    await frontend.untilShown(2);
    assert.deepEqual(frontend.frames.map((frame) => frame.message), ['before', 'after']);
    assert.deepEqual((await frontend.history()).map((line) => line.message), ['after', 'before']);
  },
);
