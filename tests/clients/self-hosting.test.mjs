// docs/self-hosting.md and infra/self-hosting, on a machine of the tests' own.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile, rm, stat } from 'node:fs/promises';
import { after, before, test } from 'node:test';

import { chromium } from 'playwright-core';

import { Page } from './datastreamer.mjs';
import { Frontend } from './frontend.mjs';
import { Machine, run } from './machine.mjs';
import { newSite, now, onlyLocal, until } from './support.mjs';

// Node would read the file of NODE_EXTRA_CA_CERTS before there is a certificate.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
const options = { ...onlyLocal('it is about a machine of one\'s own'), timeout: 120_000 };

let machine;
before(async () => { if (!options.skip) machine = await Machine.prepare(); });
after(() => machine?.end());

test('The service starts, and takes the scripts of the machine at the address that they have', options, async () => {
  assert.equal(await machine.follow('Install'), '[]');
  const output = await machine.follow('Scripts and pages on the machine');
  assert.match(output, /^Successfully added new log message\.\[{"message":"Dome opened","log_level":"info","timestamp":[\d.]+,"id":"[\d.]+"}\]$/);
});

test('systemd finds no fault with the service, and calls it well protected', options, async () => {
  const unit = machine.at('/etc/systemd/system/logstream.service');
  const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', unit]);
  assert.equal(stdout + stderr, '');
  // 1.5 of 10, where 10 is a service without any protection.
  await run('systemd-analyze', ['security', '--offline=yes', '--no-pager', '--threshold=15', unit]);
});

test('Behind nginx with TLS and under a prefix both frontends get what is posted through it', options, async (t) => {
  const read = await machine.follow('Everybody else: nginx');
  assert.equal(JSON.parse(read)[0].message, 'Dome opened');
  const site = newSite();
  const timestamp = now() - 100;
  const addresses = { httpUrl: machine.http, wsUrl: machine.ws };
  const frontend = await Frontend.connect(t, site, addresses);
  const withTopic = { httpUrl: machine.http, wsUrl: `${machine.ws}?topic=userstatus&` };
  const page = new Page(t, site, undefined, withTopic);
  await page.primary.untilCame(1);
  const answer = await machine.post({ site, log_message: 'through nginx', timestamp });
  assert.equal(answer.status, 200, await answer.text());
  await Promise.all([frontend.untilShown(1), page.untilShown('through nginx')]);
  frontend.send({ action: 'newlog', site, log_message: 'over the socket', timestamp: timestamp + 1 });
  await Promise.all([frontend.untilShown(2), page.untilShown('over the socket')]);
  const history = await frontend.history();
  assert.deepEqual(history.map(({ message }) => message), ['over the socket', 'through nginx']);
  assert.deepEqual(await page.history(), history);

  // As large as the server takes it, and larger.
  const large = await machine.post({ site: newSite(), log_message: 'x'.repeat(130_000), timestamp });
  assert.equal(large.status, 200);
  const tooLarge = await fetch(`${machine.http}/newlog`, { method: 'POST', body: 'x'.repeat(10_600_000) });
  assert.deepEqual([tooLarge.status, await tooLarge.json()], [413, { message: 'Request Entity Too Large' }]);
  // The next page's address is right under the prefix too.
  const first = await fetch(`${machine.http}/recent-logs?site=${site}&limit=1`);
  const next = new URL(/<(.*)>/.exec(first.headers.get('Link'))[1], first.url);
  assert.deepEqual((await (await fetch(next)).json()).map(({ message }) => message), ['through nginx']);
  for (const path of ['/logs/metrics', '/metrics', '/']) {
    assert.equal((await fetch(new URL(path, machine.http))).status, 404, path);
  }
});

test('Behind nginx the page shows what comes and sends', options, async () => {
  const site = newSite();
  await machine.post({ site, log_message: 'before' });
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic'] });
  try {
    const page = await browser.newPage({ ignoreHTTPSErrors: true });
    // Without the slash too.
    await page.goto(`${machine.http}?site=${site}`);
    assert.equal(new URL(page.url()).pathname, '/logs/');
    const log = page.getByRole('log');
    await page.goto(`${machine.http}/?site=${site}`);
    await log.getByText('before', { exact: true }).waitFor();
    await page.getByRole('status').filter({ hasText: 'Live' }).waitFor();
    await page.getByLabel('Message', { exact: true }).fill('from the page');
    await page.getByRole('button', { name: 'Send' }).click();
    await log.getByText('from the page', { exact: true }).waitFor();
  } finally {
    await browser.close();
  }
  assert.deepEqual(await machine.texts(site), ['from the page', 'before']);
});

test('A flood from one address gets 429, which a script may try again', options, async () => {
  const site = newSite();
  const answers = await Promise.all(Array.from({ length: 400 }, async (_, number) => {
    const answer = await machine.post({ site, log_message: `${number}` });
    const headers = ['Access-Control-Allow-Origin', 'Retry-After'].map((name) => answer.headers.get(name));
    return [answer.status, ...headers, await answer.text()].join(' ');
  }));
  assert.deepEqual([...new Set(answers)].sort(), [
    '200 *  Successfully added new log message.',
    '429 * 1 {"message":"Too Many Requests"}',
  ]);
  await until(async () => (await machine.post({ site, log_message: 'again' })).status === 200);
});

test('What was copied while the server ran is there after it was put back, also when all is lost', options, async () => {
  const site = newSite();
  const send = (text) => until(async () => (await machine.post({ site, log_message: text })).status === 200);
  await send('before the copy');
  // Messages go on coming while it is made.
  let isDone = false;
  const busy = (async () => { while (!isDone) await machine.post({ site: 'busy', log_message: 'x' }); })();
  await machine.follow('Backup');
  isDone = true;
  await busy;
  await send('after the copy');
  await machine.stop();
  await rm(machine.at('/var/lib/logstream'), { recursive: true });
  await machine.start();
  assert.deepEqual(await machine.texts(site), []);
  // A crash leaves the last changes beside the tables, in a file of their own.
  for (let number = 0; number < 20; number += 1) await send(`lost ${number}`);
  await machine.stop('SIGKILL');
  assert.ok((await stat(machine.at('/var/lib/logstream/tables.sqlite-wal'))).size > 0);
  assert.equal(await machine.follow('Backup'), 'ok\n');
  assert.deepEqual(await machine.texts(site), ['before the copy']);
  await send('and on');
  assert.deepEqual(await machine.texts(site), ['and on', 'before the copy']);
});

test('After an upgrade all is there, and the frontend is live again by itself', options, async (t) => {
  const site = newSite();
  const frontend = await Frontend.connect(t, site, { httpUrl: machine.http, wsUrl: machine.ws });
  await machine.post({ site, log_message: 'before', timestamp: now() - 10 });
  await frontend.untilShown(1);
  const closed = once(frontend.socket, 'close');
  await machine.follow('Upgrade');
  await closed;
  await frontend.untilOpen();
  await machine.post({ site, log_message: 'after', timestamp: now() });
  await frontend.untilShown(2);
  assert.deepEqual(await machine.texts(site), ['after', 'before']);
  // And back.
  await machine.follow('Upgrade');
  assert.deepEqual(await machine.texts(site), ['after', 'before']);
});

test('The rules for Prometheus are about numbers that there are', options, async () => {
  assert.equal((await machine.post({ site: 'tst' })).status, 400);
  const shown = await (await fetch(`http://127.0.0.1:${machine.port}/metrics`)).text();
  const named = machine.rules.match(/logstream_\w+/g);
  assert.ok(named.length > 3);
  for (const name of named) assert.match(shown, new RegExp(`^${name}[ {]`, 'm'));
});

test('With keys only who has one may send', options, async () => {
  await machine.follow('Who may send');
  const entry = await readFile(machine.at('/etc/logstream/keys'), 'utf8');
  assert.match(entry, /^camera:tst:/);
  assert.equal((await machine.post({ site: 'tst', log_message: 'without' })).status, 401);
  // The page's command, for a key that the test gets to see.
  await machine.shell(`logstream key new dome --site tst >> ${machine.at('/etc/logstream/keys')}`);
  const [, key] = /^key: (.*)$/m.exec(machine.said);
  await machine.systemctl('restart', 'logstream');
  const headers = { Authorization: `Bearer ${key}` };
  assert.equal((await machine.post({ site: 'tst', log_message: 'with' }, headers)).status, 200);
  assert.equal((await machine.post({ site: 'abc', log_message: 'elsewhere' }, headers)).status, 403);
  const { stdout, stderr } = await run('systemd-analyze', ['verify', '--man=no', machine.at('/etc/systemd/system/logstream.service')]);
  assert.equal(stdout + stderr, '');
});

test('All commands of the page were run', options, () => {
  assert.deepEqual([...machine.commands].filter(([, blocks]) => blocks.length), []);
});
