// The local server's page, in a browser.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { chromium } from 'playwright-core';

import { httpUrl, newSite, now, onlyLocal, post, Server, until } from './support.mjs';

const TIMEOUT = 60_000;
const CONNECTION_FAILED = /WebSocket connection to .* failed|net::ERR_CONNECTION_REFUSED/;
const DESKTOP = { width: 1100, height: 760 };
const PHONE = { width: 360, height: 640 };

let browser;
before(async () => {
  if (onlyLocal().skip !== undefined) return;
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
});
after(() => browser?.close());

// A test with a tab and a site of its own. It fails if the browser's console
// shows any error but the expected ones.
function pageTest(name, options, run) {
  const { viewport = DESKTOP, expected = [] } = options;
  const reason = 'the page belongs to the local server';
  test(name, { ...onlyLocal(reason), timeout: TIMEOUT }, async (t) => {
    const context = await browser.newContext({ viewport });
    try {
      const page = await context.newPage();
      const errors = [];
      page.on('pageerror', (error) => errors.push(String(error)));
      page.on('console', (entry) => {
        if (entry.type() === 'error' || entry.type() === 'warning') errors.push(entry.text());
      });
      await run({ t, page, site: newSite() });
      assert.deepEqual(errors.filter((error) => !expected.some((pattern) => pattern.test(error))), []);
    } finally {
      await context.close();
    }
  });
}

const rowsOf = (page) => page.getByRole('log').getByRole('listitem');
const textsOf = (page) => rowsOf(page).locator('.text').allTextContents();

async function open(page, site, base = httpUrl) {
  await page.goto(`${base}/?site=${site}`);
  await untilState(page, 'Live');
}

const untilState = (page, state) => page.getByRole('status').filter({ hasText: state }).waitFor();

// Waits until exactly these texts are shown, in this order.
async function untilShown(page, expected) {
  let texts;
  await until(
    async () => {
      texts = await textsOf(page);
      return JSON.stringify(texts) === JSON.stringify(expected);
    },
    () => `expected ${JSON.stringify(expected)}, shown ${JSON.stringify(texts)}`,
  );
}

// Whether an element lies in the part of the list that can be seen.
async function isInView(page, locator) {
  const [list, row] = await Promise.all([page.getByRole('log').boundingBox(), locator.boundingBox()]);
  return row.y >= list.y && row.y + row.height <= list.y + list.height;
}

// A made-up answer.
const json = (body, status = 200, headers = {}) => ({ status, headers, contentType: 'application/json', body: JSON.stringify(body) });

pageTest('A message of a script appears live, with its time and level', {}, async ({ page, site }) => {
  await open(page, site);
  await page.getByText('No messages in the last 24 hours.').waitFor();
  const timestamp = now();
  await post({ site, log_message: 'Clouds\n  from the west', log_level: 'WARN', timestamp: timestamp + 0.5 });
  await untilShown(page, ['Clouds\n  from the west']);
  const row = rowsOf(page).first();
  const time = new Date(timestamp * 1000).toISOString();
  assert.equal(await row.locator('time').getAttribute('datetime'), time);
  assert.equal(await row.locator('time').textContent(), time.slice(11, 19));
  assert.equal(await row.locator('.level').textContent(), 'warning');
  assert.match(await row.locator('.text').evaluate((text) => text.innerText), /^Clouds\n {2}from the west$/);
});

pageTest('A message sent with the form appears once, on every page of its site', { viewport: PHONE }, async ({ page, site }) => {
  await open(page, site);
  const other = await page.context().newPage();
  await open(other, site);
  const field = page.getByLabel('Message', { exact: true });
  await field.fill('Closing');
  await field.press('Shift+Enter');
  await field.pressSequentially('the dome');
  await page.getByLabel('Level').selectOption('critical');
  await page.getByRole('button', { name: 'Send' }).click();
  await untilShown(page, ['Closing\nthe dome']);
  assert.equal(await rowsOf(page).locator('.level').textContent(), 'critical');

  await until(async () => (await field.inputValue()) === '', () => 'the field is not emptied');
  await field.fill('Good night');
  await field.press('Enter');
  for (const each of [page, other]) await untilShown(each, ['Closing\nthe dome', 'Good night']);
});

pageTest('Markup in a message is shown as text, and none of it runs', {}, async ({ page, site }) => {
  const texts = [
    '<img src=x onerror="globalThis.attacked = true">',
    '<script>globalThis.attacked = true</script>',
    '</span></li><svg onload="globalThis.attacked = true">&lt;b&gt;',
  ];
  await open(page, site);
  for (const text of texts) await post({ site, log_message: text, log_level: text });
  await untilShown(page, texts);
  await page.reload();
  await untilShown(page, texts);
  assert.equal(await page.getByRole('log').locator('img, script, svg, b').count(), 0);
  assert.equal(await page.evaluate(() => globalThis.attacked), undefined);
});

pageTest('Earlier messages are shown, and the newest stays in view', { viewport: PHONE }, async ({ page, site }) => {
  const texts = Array.from({ length: 40 }, (_, number) => `Exposure ${number}`);
  for (const [number, text] of texts.entries()) await post({ site, log_message: text, timestamp: now() - 1000 + number });
  await open(page, site);
  await untilShown(page, texts);
  const rows = rowsOf(page);
  assert.ok(await isInView(page, rows.last()));
  await post({ site, log_message: 'Live' });
  await untilShown(page, [...texts, 'Live']);
  assert.ok(await isInView(page, rows.last()));

  // Whoever reads further up is not disturbed.
  await rows.nth(5).scrollIntoViewIfNeeded();
  const newest = page.getByRole('button', { name: 'Newest' });
  await newest.waitFor();
  const { y } = await rows.nth(5).boundingBox();
  await post({ site, log_message: 'Later' });
  await untilShown(page, [...texts, 'Live', 'Later']);
  assert.ok(Math.abs((await rows.nth(5).boundingBox()).y - y) < 1);
  await newest.click();
  await until(() => isInView(page, rows.last()), () => 'the newest row is not in view');
  await newest.waitFor({ state: 'hidden' });
});

pageTest('A history of several pages is loaded to its end', {}, async ({ page, site }) => {
  const texts = Array.from({ length: 8 }, (_, number) => `Message ${number}`);
  for (const [number, text] of texts.entries()) await post({ site, log_message: text, timestamp: now() - 100 + number });
  const requests = [];
  await page.route('**/recent-logs*', (route) => {
    requests.push(route.request().url());
    return route.continue({ url: route.request().url().replace(/limit=\d+/, 'limit=3') });
  });
  await open(page, site);
  await untilShown(page, texts);
  assert.equal(requests.length, 3);
});

pageTest('The history is asked for only once the socket is open', {}, async ({ page, site }) => {
  let open;
  const mayOpen = new Promise((resolve) => { open = resolve; });
  await page.routeWebSocket(/./, async (socket) => {
    await mayOpen;
    socket.connectToServer();
  });
  const requests = [];
  page.on('request', (request) => requests.push(new URL(request.url()).pathname));
  await page.goto(`${httpUrl}/?site=${site}`);
  await untilState(page, 'Connecting…');
  // Too early for the socket. It must not be too late for the history.
  await post({ site, log_message: 'in between' });
  assert.ok(!requests.includes('/recent-logs'));
  open();
  await untilShown(page, ['in between']);
});

pageTest('A message that arrives while the history loads is shown at once, and once', {}, async ({ page, site }) => {
  const start = now() - 100;
  await post({ site, log_message: 'before', timestamp: start });
  let answer;
  const mayAnswer = new Promise((resolve) => { answer = resolve; });
  await page.route('**/recent-logs*', async (route) => {
    await mayAnswer;
    await route.continue();
  });
  await open(page, site);
  await post({ site, log_message: 'meanwhile', timestamp: start + 1 });
  await page.getByText('meanwhile').waitFor();
  answer();
  await untilShown(page, ['before', 'meanwhile']);
  await post({ site, log_message: 'afterwards', timestamp: start + 2 });
  await untilShown(page, ['before', 'meanwhile', 'afterwards']);
});

pageTest(
  'A failure to load the history is shown, and the load is retried',
  { expected: [/status of 503/] },
  async ({ page, site }) => {
    await post({ site, log_message: 'before' });
    let failures = 1;
    await page.route('**/recent-logs*', (route) =>
      failures-- > 0 ? route.fulfill(json({ message: 'Storage is away.' }, 503)) : route.continue());
    await open(page, site);
    const alert = page.getByRole('alert').filter({ hasText: 'Messages may be missing' });
    await alert.filter({ hasText: 'Storage is away.' }).waitFor();
    await untilShown(page, ['before']);
    await alert.waitFor({ state: 'hidden' });
  },
);

pageTest('Messages are in the order of their ids, to the last decimal', {}, async ({ page, site }) => {
  await open(page, site);
  await page.getByText('No messages').waitFor();
  for (const timestamp of ['99999999998.000002', '1000000000.5', '99999999998.000001', '999999999.5', '99999999998.000003']) {
    await post({ site, log_message: timestamp, timestamp });
  }
  await untilShown(page, ['999999999.5', '1000000000.5', '99999999998.000001', '99999999998.000002', '99999999998.000003']);
});

pageTest('A frame without an id is always shown, where it appeared', {}, async ({ page, site }) => {
  let send;
  await page.routeWebSocket(/./, (socket) => {
    socket.connectToServer();
    send = (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  });
  await post({ site, log_message: 'by a clock that is ahead', timestamp: now() + 3600 });
  await open(page, site);
  await untilShown(page, ['by a clock that is ahead']);
  const error = { site, message: 'No.', log_level: 'error', timestamp: `${now()}` };
  send(error);
  send(error);
  send('not JSON');
  await post({ site, log_message: 'later', timestamp: now() + 7200 });
  await untilShown(page, ['by a clock that is ahead', 'No.', 'No.', 'not JSON', 'later']);
});

pageTest('Only the newest 2,000 messages are kept', {}, async ({ page, site }) => {
  const start = now() - 10_000;
  let pages = 0;
  await page.route('**/recent-logs*', (route) => {
    pages += 1;
    const query = new URL(route.request().url()).searchParams;
    const end = Number(query.get('before') ?? start + 2200) - start;
    const messages = Array.from({ length: 500 }, (_, place) => {
      const number = end - 1 - place;
      return { message: `${number}`, log_level: 'info', timestamp: start + number, id: `${start + number}.000000` };
    });
    return route.fulfill(json(messages, 200, { Link: `<?site=${site}&before=${start + end - 500}.000000>; rel="next"` }));
  });
  await open(page, site);
  const numbers = (first, last) => Array.from({ length: last - first + 1 }, (_, place) => `${first + place}`);
  await untilShown(page, numbers(200, 2199));
  assert.equal(pages, 4);

  await post({ site, log_message: '2200', timestamp: start + 2200 });
  await untilShown(page, numbers(201, 2200));
  // The next catch-up brings the oldest once more.
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await until(() => pages === 8, () => `${pages} pages`);
  await post({ site, log_message: '2201', timestamp: start + 2201 });
  await untilShown(page, numbers(202, 2201));
});

pageTest(
  'After a crash of the server nothing is missing and nothing is shown twice',
  { expected: [CONNECTION_FAILED] },
  async ({ t, page, site }) => {
    const server = await Server.start(t);
    const send = (text) => post({ site, log_message: text }, server.httpUrl);
    await page.clock.install();
    await send('1: before the page');
    await open(page, site, server.httpUrl);
    await send('2: live');
    await untilShown(page, ['1: before the page', '2: live']);

    // The page's clock stands still: it reconnects when this test says so.
    await page.clock.pauseAt(Date.now() + 1000);
    await server.stop('SIGKILL');
    await untilState(page, 'Reconnecting…');
    const attempt = page.waitForEvent('websocket');
    await page.clock.runFor(2000);
    await until(async () => (await attempt).isClosed(), () => 'the first attempt has not failed');
    await server.start();
    await send('3: while the page is away');
    await send('4: while the page is away');
    assert.deepEqual(await textsOf(page), ['1: before the page', '2: live']);

    await page.clock.resume();
    await untilState(page, 'Live');
    const texts = ['1: before the page', '2: live', '3: while the page is away', '4: while the page is away'];
    await untilShown(page, texts);
    await send('5: live again');
    await untilShown(page, [...texts, '5: live again']);
  },
);

pageTest(
  'When the network is back the page reconnects at once',
  { expected: [CONNECTION_FAILED] },
  async ({ t, page, site }) => {
    const server = await Server.start(t);
    await page.clock.install();
    await open(page, site, server.httpUrl);
    await page.clock.pauseAt(Date.now() + 1000);
    await server.stop('SIGTERM');
    await untilState(page, 'Reconnecting…');
    await server.start();
    await post({ site, log_message: 'missed' }, server.httpUrl);
    await page.evaluate(() => dispatchEvent(new Event('online')));
    await untilState(page, 'Live');
    await untilShown(page, ['missed']);
  },
);

pageTest('Another site shows its own messages only, and is remembered', {}, async ({ page, site }) => {
  const otherSite = `${newSite()} & <b>ü?</b>`;
  await post({ site, log_message: 'here' });
  await post({ site: otherSite, log_message: 'there' });
  await open(page, site);
  await untilShown(page, ['here']);
  await page.getByLabel('Site').fill(otherSite);
  await page.getByRole('button', { name: 'Show' }).click();
  await untilState(page, 'Live');
  await untilShown(page, ['there']);

  await post({ site, log_message: 'here, live' });
  await post({ site: otherSite, log_message: 'there, live' });
  await untilShown(page, ['there', 'there, live']);
  assert.equal(new URL(page.url()).searchParams.get('site'), otherSite);
  await page.reload();
  await untilShown(page, ['there', 'there, live']);
  await page.getByLabel('Message', { exact: true }).fill('from here');
  await page.getByRole('button', { name: 'Send' }).click();
  await untilShown(page, ['there', 'there, live', 'from here']);
  await page.goBack();
  await untilShown(page, ['here', 'here, live']);
});

pageTest('Without a site in its address the page shows tst', {}, async ({ page }) => {
  await page.goto(`${httpUrl}/`);
  await untilState(page, 'Live');
  assert.equal(await page.getByLabel('Site').inputValue(), 'tst');
});

pageTest('A refusal is shown to the sender, who keeps the text', { expected: [/status of 413/] }, async ({ page, site }) => {
  await open(page, site);
  const text = 'x'.repeat(140_000);
  const field = page.getByLabel('Message', { exact: true });
  await field.fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
  const refusal = await fetch(`${httpUrl}/newlog`, { method: 'POST', body: JSON.stringify({ site, log_message: text }) });
  assert.equal(refusal.status, 413);
  const alert = page.getByRole('alert').filter({ hasText: (await refusal.json()).message });
  await alert.waitFor();
  assert.equal(await field.inputValue(), text);

  await field.fill('shorter');
  await field.press('Enter');
  await untilShown(page, ['shorter']);
  await alert.waitFor({ state: 'hidden' });
});
