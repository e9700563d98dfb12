// The scripts at the telescopes: Python's requests, without a Content-Type, and
// the HTTPHandler of Python's logging.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { Frontend } from './frontend.mjs';
import { httpUrl, newSite } from './support.mjs';

const beside = (name) => fileURLToPath(new URL(name, import.meta.url));

test('Messages sent back to back by a telescope are accepted, arrive in order and are in the history', async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site);
  const texts = Array.from({ length: 12 }, (_, number) => `Exposure ${number} of 12: 30 s, “R” filter`);
  const before = Date.now() / 1000;

  const script = await promisify(execFile)(beside('.venv/bin/python'), [beside('telescope.py'), `${httpUrl}/newlog`, site, ...texts]);
  assert.deepEqual(JSON.parse(script.stdout), texts.map(() => 200));

  await frontend.untilShown(texts.length);
  const after = Date.now() / 1000;
  assert.deepEqual(frontend.frames.map((frame) => frame.message), texts);
  assert.deepEqual(
    frontend.frames.map((frame) => frame.log_level),
    texts.map((_, number) => (number % 3 === 2 ? 'warning' : 'info')),
  );
  for (const { id, timestamp } of frontend.frames) {
    assert.match(id, /^\d+\.\d{6}$/);
    assert.equal(timestamp, id.split('.')[0]);
    assert.ok(before - 0.001 <= Number(id) && Number(id) <= after + 0.001, `${id} is the telescope's own time`);
  }

  const history = await frontend.history();
  assert.deepEqual(
    history.reverse(),
    frontend.frames.map(({ message, log_level, id }) => ({ message, log_level, timestamp: Number(id), id })),
  );
});

test("Lines logged with Python's HTTPHandler arrive with their text, level and time", async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site);
  const before = Date.now() / 1000;

  await promisify(execFile)(beside('.venv/bin/python'), [beside('http_handler.py'), `${httpUrl}/newlog`, site]);

  await frontend.untilShown(5);
  const after = Date.now() / 1000;
  assert.deepEqual(
    frontend.frames.map(({ message, log_level }) => [message, log_level]),
    ['debug', 'info', 'warning', 'error', 'critical'].map((level, number) => [`${number} & more: -5.5°C, “R” = 100 %`, level]),
  );
  for (const { id } of frontend.frames) {
    assert.ok(before - 0.001 <= Number(id) && Number(id) <= after + 0.001, `${id} is the record's own time`);
  }
});
