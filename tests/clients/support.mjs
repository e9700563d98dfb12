// What the tests share: the deployment under test, servers of their own, and
// waiting for conditions.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
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
export const newSite = () => `test-${randomUUID()}`;

export const now = () => Math.floor(Date.now() / 1000);

// Posts a message as a script would, and expects it to be accepted.
export async function post(message, base = httpUrl) {
  const response = await fetch(`${base}/newlog`, { method: 'POST', body: JSON.stringify(message) });
  assert.equal(response.status, 200, await response.text());
}

// Waits until the condition holds, and returns its result.
export async function until(condition, describe = () => '', seconds = 20) {
  for (const end = Date.now() + seconds * 1000; ;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < end, `in vain for ${seconds} s: ${await describe()}`);
    await sleep(20);
  }
}

// A server of a test's own, which the test can stop and start again: on the
// same port, with the same data.
export class Server {
  static async start(test) {
    const server = new Server();
    server.dataDir = await mkdtemp(join(tmpdir(), 'logstream-'));
    test.after(async () => {
      await server.stop('SIGKILL');
      await rm(server.dataDir, { recursive: true });
    });
    await server.start();
    return server;
  }

  async start() {
    this.child = spawn(binary, ['--port', this.port ?? '0', '--data-dir', this.dataDir], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.exited = once(this.child, 'exit');
    const [line] = await Promise.race([
      once(createInterface({ input: this.child.stdout }), 'line'),
      this.exited.then(([code]) => assert.fail(`the server ended with ${code}`)),
    ]);
    this.httpUrl = line.replace('listening on ', '');
    this.wsUrl = this.httpUrl.replace('http', 'ws');
    this.port = new URL(this.httpUrl).port;
  }

  async stop(signal) {
    this.child.kill(signal);
    await this.exited;
  }
}
