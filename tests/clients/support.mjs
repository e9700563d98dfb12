// What the tests share: the deployment under test, servers of their own, and
// waiting for conditions.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

export const httpUrl = fromEnvironment('LOGSTREAM_HTTP_URL');
export const wsUrl = fromEnvironment('LOGSTREAM_WS_URL');

// The local server's binary, unless the tests run against a deployment.
const binary = process.env.LOGSTREAM_SERVER;
export const onlyLocal = (reason) => (binary ? {} : { skip: reason });

function fromEnvironment(name) {
  const url = process.env[name];
  assert.ok(url, `${name} is not set: start the tests with the script "run" beside them`);
  return url.replace(/\/+$/, '');
}

// A site of its own for each test: a deployment remembers the last run.
export const newSite = () => `test-${crypto.randomUUID()}`;

export const now = () => Math.floor(Date.now() / 1000);

// Posts a message as a script would, and expects it to be accepted.
export async function post(message, base = httpUrl) {
  const response = await fetch(`${base}/newlog`, { method: 'POST', body: JSON.stringify(message) });
  assert.equal(response.status, 200, await response.text());
}

// Looks until the condition holds; then what it returned.
export async function until(condition, describe, seconds = 20) {
  for (const end = Date.now() + seconds * 1000; ;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < end, `in vain for ${seconds} s: ${await describe()}`);
    await sleep(20);
  }
}

// Starts a server for a test that stops it; the test's end stops it as well.
export async function startServer(test, { port = 0, dataDir }) {
  const child = spawn(binary, ['--port', `${port}`, '--data-dir', dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(child, 'exit');
  const stop = async (signal) => {
    child.kill(signal);
    await exited;
  };
  test.after(() => stop('SIGKILL'));
  const [line] = await Promise.race([
    once(createInterface({ input: child.stdout }), 'line'),
    exited.then(([code]) => assert.fail(`the server ended with ${code}`)),
  ]);
  const url = line.replace('listening on ', '');
  return { httpUrl: url, wsUrl: url.replace(/^http/, 'ws'), port: new URL(url).port, stop };
}
