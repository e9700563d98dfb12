// The operators' console in Chromium, against real servers: served by the local
// server, by a proxy, and by a web host that knows nothing of it.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { extname } from 'node:path';
import { after, before, test } from 'node:test';

import axe from 'axe-core';
import { chromium } from 'playwright-core';

import { newSite, now, Proxy, Server, sleep, until } from './support.mjs';

const CONSOLE = new URL('../../console/', import.meta.url);
const CONNECTION_FAILED = /WebSocket connection to .* failed|net::ERR_CONNECTION_REFUSED|net::ERR_EMPTY_RESPONSE/;
const DESKTOP = { width: 1200, height: 720 };
const PHONE = { width: 375, height: 667 };
const DAY = 24 * 60 * 60;

let browser, server;
const ends = [];
before(async () => {
  server = await Server.start({ after: (end) => ends.push(end) });
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
});
after(async () => {
  await browser?.close();
  for (const end of ends) await end();
});

// A test with a tab and a site of its own. It fails if the browser's console
// shows any error but the expected ones.
function pageTest(name, options, run) {
  const { expected = [], timeout = 120_000, ...context } = options;
  test(name, { timeout }, async (t) => {
    const tab = await browser.newContext({ viewport: DESKTOP, timezoneId: 'America/Los_Angeles', ...context });
    tab.setDefaultTimeout(30_000);
    try {
      const page = await tab.newPage();
      const errors = [];
      page.on('pageerror', (error) => errors.push(String(error)));
      page.on('console', (entry) => {
        if (entry.type() === 'error' || entry.type() === 'warning') errors.push(entry.text());
      });
      await run({ t, page, site: newSite() });
      assert.deepEqual(errors.filter((error) => !expected.some((pattern) => pattern.test(error))), []);
    } finally {
      await tab.close();
    }
  });
}

const rowsOf = (page) => page.getByRole('log').getByRole('listitem');
const textsOf = (page) => page.evaluate(() => Array.from(document.querySelectorAll('#log li .text'), ({ textContent }) => textContent));
const titleOf = (page) => page.evaluate(() => document.title);
const query = (page) => new URL(page.url()).searchParams;

async function open(page, search, base = `${server.url}/`) {
  await page.goto(`${base}?${search}`);
  await untilComplete(page);
}

const untilComplete = (page) => page.locator('#state[data-state=live][data-complete=true]').waitFor();

// Waits until exactly these texts are shown, in this order.
async function untilShown(page, ...expected) {
  let texts;
  await until(
    async () => JSON.stringify(texts = await textsOf(page)) === JSON.stringify(expected),
    () => `expected ${JSON.stringify(expected)}, shown ${JSON.stringify(texts)}`,
  );
}

const untilIn = (page, selector, pattern) => until(
  async () => pattern.test(await page.locator(selector).textContent()),
  async () => `${selector} is '${await page.locator(selector).textContent()}', not ${pattern}`,
);

// Whether an element lies in the part of the list that can be seen.
async function isInView(page, locator) {
  const [list, row] = await Promise.all([page.getByRole('log').boundingBox(), locator.boundingBox()]);
  return row.y >= list.y && row.y + row.height <= list.y + list.height;
}

// Sends as a script does: with a timestamp, and again after a 503, which a busy
// machine gives.
async function post(messages) {
  const body = JSON.stringify(Array.isArray(messages) ? messages : { timestamp: Date.now() / 1000, ...messages });
  let answer;
  do answer = await fetch(`${server.url}/newlog`, { method: 'POST', body }); while (answer.status === 503);
  assert.equal(answer.status, 200, await answer.text());
}

// Stores many, in their order.
async function fill(site, count, first, fields = () => ({})) {
  for (let from = 0; from < count; from += 50) {
    await post(Array.from({ length: Math.min(50, count - from) }, (_, place) => ({
      site, log_message: `Exposure ${from + place}`, timestamp: first + from + place, ...fields(from + place),
    })));
  }
}

const numbered = (first, last) => Array.from({ length: last - first + 1 }, (_, place) => `Exposure ${first + place}`);

// A web host with the files of the console, under a prefix.
async function host(t, prefix) {
  const types = { '.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript' };
  const listener = createServer(async ({ url }, response) => {
    const path = url.split('?')[0];
    const name = path === prefix ? 'index.html' : path.startsWith(prefix) ? path.slice(prefix.length) : '';
    try {
      const file = await readFile(new URL(name, CONSOLE));
      response.setHeader('Content-Type', types[extname(name)]);
      response.end(file);
    } catch {
      response.writeHead(404).end();
    }
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => { listener.closeAllConnections(); listener.close(); });
  return `http://127.0.0.1:${listener.address().port}${prefix}`;
}

// A reverse proxy that has the server under a prefix, and takes it off or not.
async function reverseProxy(t, prefix, takesOff) {
  const listener = createServer();
  const sockets = new Set();
  const onward = (request, socket, head) => {
    const upstream = connect(server.port, '127.0.0.1', () => {
      const path = takesOff ? request.url.replace(prefix, '') || '/' : request.url;
      const headers = request.rawHeaders.reduce((text, part, place) => text + part + (place % 2 ? '\r\n' : ': '), '');
      upstream.write(`${request.method} ${path} HTTP/1.1\r\n${headers}\r\n`);
      upstream.write(head);
      socket.pipe(upstream).pipe(socket);
    });
    for (const end of [socket, upstream]) {
      sockets.add(end);
      end.on('error', () => {}).on('close', () => { socket.destroy(); upstream.destroy(); });
    }
  };
  listener.on('upgrade', onward);
  listener.on('request', async (request, response) => {
    if (!request.url.startsWith(prefix)) return response.writeHead(404).end();
    const body = [];
    for await (const part of request) body.push(part);
    const path = takesOff ? request.url.slice(prefix.length) : request.url;
    const answer = await fetch(`${server.url}/${path.replace(/^\//, '')}`, {
      method: request.method, ...(body.length > 0 && { body: Buffer.concat(body) }),
    });
    response.writeHead(answer.status, Object.fromEntries([...answer.headers].filter(([name]) => name !== 'transfer-encoding')));
    response.end(Buffer.from(await answer.arrayBuffer()));
  });
  listener.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  t.after(() => { for (const socket of sockets) socket.destroy(); listener.closeAllConnections(); listener.close(); });
  return `http://127.0.0.1:${listener.address().port}${prefix}`;
}

const json = (body, status = 200, headers = {}) => ({ status, headers, contentType: 'application/json', body: JSON.stringify(body) });

// ---- Messages

pageTest('A message of a script appears live, with its time and level', {}, async ({ page, site }) => {
  await open(page, `site=${site}&utc`);
  await page.getByText('No messages in the last 24 hours.').waitFor();
  const timestamp = now();
  await post({ site, log_message: 'Clouds\n  from the west', log_level: 'WARN', timestamp: timestamp + 0.5 });
  await untilShown(page, 'Clouds\n  from the west');
  const row = rowsOf(page).first();
  const time = new Date(timestamp * 1000 + 500).toISOString();
  assert.equal(await row.locator('time').getAttribute('datetime'), time);
  assert.equal(await row.locator('time').textContent(), time.slice(11, 19));
  assert.equal(await row.locator('.level').textContent(), 'warning');
  assert.match(await row.locator('.text').evaluate((text) => text.innerText), /^Clouds\n {2}from the west$/);
});

pageTest('Without a site in its address the console shows tst', {}, async ({ page }) => {
  await open(page, '');
  assert.equal(await page.getByRole('list', { name: 'Sites' }).textContent(), 'tst');
  assert.equal(await titleOf(page), 'tst · Logstream');
});

pageTest('Markup in a message is shown as text, and none of it runs', {}, async ({ page, site }) => {
  const texts = [
    '<img src=x onerror="globalThis.attacked = true">',
    '<script>globalThis.attacked = true</script>',
    '</span></li><svg onload="globalThis.attacked = true">&lt;b&gt;',
  ];
  const evil = `<img src=x onerror="globalThis.attacked = true">${site}`;
  await open(page, new URLSearchParams([['site', site], ['site', evil]]));
  for (const text of texts) await post({ site: evil, log_message: text, log_level: 'error' });
  await untilShown(page, ...texts);
  await page.getByRole('searchbox').fill('<');
  await untilShown(page, ...texts);
  await page.getByRole('searchbox').fill('attacked');
  assert.equal(await page.locator('#log :is(img, script, svg, b), header img').count(), 0);
  assert.equal(await page.evaluate(() => globalThis.attacked), undefined);
});

pageTest('Messages are in the order of their ids, to the last decimal', {}, async ({ page, site }) => {
  await open(page, `site=${site}`);
  for (const timestamp of ['99999999998.000002', '1000000000.5', '99999999998.000001', '999999999.5', '99999999998.000003']) {
    await post({ site, log_message: timestamp, timestamp });
  }
  await untilShown(page, '999999999.5', '1000000000.5', '99999999998.000001', '99999999998.000002', '99999999998.000003');
});

pageTest('A frame without an id is always shown, where it appeared', {}, async ({ page, site }) => {
  let send;
  await page.routeWebSocket(/./, (socket) => {
    socket.connectToServer();
    send = (frame) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  });
  await post({ site, log_message: 'by a clock that is ahead', timestamp: now() + 3600 });
  await open(page, `site=${site}`);
  await untilShown(page, 'by a clock that is ahead');
  const error = { site, message: 'No.', log_level: 'error', timestamp: `${now()}` };
  send(error);
  send(error);
  send('not JSON');
  await post({ site, log_message: 'later', timestamp: now() + 7200 });
  await untilShown(page, 'by a clock that is ahead', 'No.', 'No.', 'not JSON', 'later');
});

for (const browserName of ['Chromium', 'a browser without scroll anchoring']) pageTest(`The newest message stays in view, and whoever reads further up is not disturbed: ${browserName}`, { viewport: PHONE }, async ({ page, site }) => {
  if (browserName !== 'Chromium') {
    await page.addInitScript(() => { CSS.supports = () => false; });
    await page.route('**/console.css', async (route) => {
      const response = await route.fetch();
      await route.fulfill({ response, body: `${await response.text()} * { overflow-anchor: none; }` });
    });
  }
  await fill(site, 400, now() - 1000);
  await open(page, `site=${site}`);
  await untilShown(page, ...numbered(0, 399));
  const rows = rowsOf(page);
  assert.ok(await isInView(page, rows.last()));
  await post({ site, log_message: 'Live' });
  await untilShown(page, ...numbered(0, 399), 'Live');
  assert.ok(await isInView(page, rows.last()));

  await rows.nth(380).scrollIntoViewIfNeeded();
  const newest = page.locator('#newest');
  await newest.waitFor();
  let place;
  await until(async () => {
    const before = place;
    place = (await rows.nth(380).boundingBox()).y;
    return place === before;
  });
  await post({ site, log_message: 'Later' });
  await untilIn(page, '#newest', /^↓ 1 new$/);
  // An old one too, above what is read.
  await post({ site, log_message: 'Late', timestamp: now() - 5000 });
  await untilShown(page, 'Late', ...numbered(0, 399), 'Live', 'Later');
  assert.ok(Math.abs((await rows.nth(381).boundingBox()).y - place) < 1);
  await newest.click();
  await until(() => isInView(page, rows.last()), () => 'the newest row is not in view');
  await newest.waitFor({ state: 'hidden' });
});

pageTest('Nothing jumps on the way down through a long list', {}, async ({ page, site }) => {
  // Of different heights, so that the browser's guesses are wrong.
  await fill(site, 1500, now() - 2000, (number) => ({ log_message: `${number} ${'and so on '.repeat(number % 13 === 0 ? 90 : 1)}` }));
  await open(page, `site=${site}`);
  await until(async () => await rowsOf(page).count() === 1500);
  await page.evaluate(() => { document.querySelector('#log').scrollTop = -1e7; });
  await page.mouse.move(600, 400);
  const numberInView = () => page.evaluate(() => parseInt(document.elementFromPoint(600, 400).closest('li')?.querySelector('.text').textContent ?? '0'));
  let last = await numberInView();
  for (let step = 0; step < 40; step++) {
    await page.mouse.wheel(0, 500);
    await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
    const number = await numberInView();
    assert.ok(number >= last && number - last <= 60, `from ${last} to ${number}`);
    last = number;
  }
  assert.ok(last > 200, `${last}`);
});

pageTest('Days have a heading, one each', { timezoneId: 'UTC' }, async ({ page, site }) => {
  const midnight = Math.floor(now() / DAY) * DAY;
  for (const time of [midnight - 2, midnight + 1, midnight - 1, midnight]) await post({ site, log_message: `${time - midnight}`, timestamp: time });
  await open(page, `site=${site}`);
  await untilShown(page, '-2', '-1', '0', '1');
  const days = await page.locator('.day').allTextContents();
  assert.equal(days.length, 2);
  const name = new Date(midnight * 1000).toLocaleDateString('en-GB', { dateStyle: 'full', timeZone: 'UTC' });
  assert.equal(days[1], `${name}, local time`);
  assert.equal(await rowsOf(page).nth(2).locator('.day').count(), 1);
});

// ---- What is shown

pageTest('Several sites are shown together, and the address keeps them', {}, async ({ page, site }) => {
  const other = `${newSite()} & <b>ü?</b>`;
  await post({ site, log_message: 'here', timestamp: now() - 20 });
  await post({ site: other, log_message: 'there', timestamp: now() - 10 });
  await open(page, `site=${site}`);
  await untilShown(page, 'here');
  assert.equal(await rowsOf(page).locator('.site').isVisible(), false);
  await page.getByLabel('Add a site').fill(other);
  await page.getByLabel('Add a site').press('Enter');
  await untilShown(page, 'here', 'there');
  await untilComplete(page);
  assert.deepEqual(await rowsOf(page).locator('.site').allTextContents(), [site, other]);
  assert.ok(await rowsOf(page).locator('.site').first().isVisible());
  await post({ site, log_message: 'here, live', timestamp: now() + 1 });
  await post({ site: other, log_message: 'there, live', timestamp: now() + 2 });
  await untilShown(page, 'here', 'there', 'here, live', 'there, live');
  assert.deepEqual(query(page).getAll('site'), [site, other]);
  await page.reload();
  await untilShown(page, 'here', 'there', 'here, live', 'there, live');

  // To one of them, by name.
  await page.getByLabel('To the site').selectOption(other);
  await page.getByLabel('Message', { exact: true }).fill('from here');
  await page.getByRole('button', { name: 'Send' }).click();
  await until(async () => (await server.history(encodeURIComponent(other))).some(({ message }) => message === 'from here'));

  await page.getByRole('button', { name: `Remove ${site}` }).click();
  await until(async () => (await textsOf(page)).every((text) => text !== 'here'));
  await untilComplete(page);
  assert.deepEqual((await textsOf(page)).sort(), ['from here', 'there', 'there, live']);
  assert.deepEqual(query(page).getAll('site'), [other]);
  await page.goBack();
  await until(async () => (await textsOf(page)).includes('here, live'));
  assert.deepEqual(query(page).getAll('site'), [site, other]);
});

pageTest('The least level is asked of the server', {}, async ({ page, site }) => {
  await post({ site, log_message: 'low', log_level: 'info', timestamp: now() - 10 });
  await post({ site, log_message: 'high', log_level: 'error', timestamp: now() - 9 });
  const sent = [];
  page.on('websocket', (socket) => socket.on('framereceived', ({ payload }) => sent.push(payload)));
  await open(page, `site=${site}&level=warning`);
  await untilShown(page, 'high');
  await post({ site, log_message: 'low, live' });
  await post({ site, log_message: 'high, live', log_level: 'warning' });
  await untilShown(page, 'high', 'high, live');
  assert.ok(!sent.some((frame) => frame.includes('low')));
  await page.getByLabel('Level', { exact: true }).selectOption('all');
  await untilShown(page, 'low', 'high', 'low, live', 'high, live');
  assert.equal(query(page).has('level'), false);
  await page.getByLabel('Level', { exact: true }).selectOption('critical');
  await page.getByText('No messages in the last 24 hours.').waitFor();
  assert.equal(query(page).get('level'), 'critical');
});

pageTest('A search shows what has all its words, marks them, and can be left at a find', {}, async ({ page, site }) => {
  await fill(site, 600, now() - 1000, (number) => (number === 77 ? { log_message: 'Dome CLOSED, rain', log_level: 'error' } : {}));
  await open(page, `site=${site}`);
  await untilIn(page, '#count', /^600 messages$/);
  const search = page.getByRole('searchbox');
  await search.fill('rain dome');
  await untilShown(page, 'Dome CLOSED, rain');
  assert.deepEqual(await page.locator('mark').allTextContents(), ['Dome', 'rain']);
  await untilIn(page, '#count', /^1 of 600$/);
  assert.equal(query(page).get('q'), 'rain dome');
  // What comes is searched too.
  await post({ site, log_message: 'nothing' });
  await post({ site, log_message: 'Rain at the dome' });
  await untilShown(page, 'Dome CLOSED, rain', 'Rain at the dome');
  await untilIn(page, '#count', /^2 of 602$/);
  await page.reload();
  await untilShown(page, 'Dome CLOSED, rain', 'Rain at the dome');
  await search.fill('77 error');
  await page.getByText('Nothing matches “77 error” in 602 messages.').waitFor();
  await search.fill('closed');
  await untilShown(page, 'Dome CLOSED, rain');
  await search.fill('');
  await until(async () => (await textsOf(page)).length === 602);
  assert.ok(await isInView(page, rowsOf(page).nth(77)), 'the find is not in view');
});

pageTest('A pause holds back what comes, and counts it', {}, async ({ page, site }) => {
  await post({ site, log_message: 'before', timestamp: now() - 10 });
  await open(page, `site=${site}`);
  await untilShown(page, 'before');
  await page.getByRole('button', { name: 'Pause' }).click();
  await fill(site, 3, now() - 5);
  await page.getByRole('button', { name: 'Resume · 3 waiting' }).waitFor();
  assert.deepEqual(await textsOf(page), ['before']);
  await page.getByRole('button', { name: 'Resume · 3 waiting' }).click();
  await untilShown(page, 'before', ...numbered(0, 2));
  await post({ site, log_message: 'live' });
  await untilShown(page, 'before', ...numbered(0, 2), 'live');
  await page.getByRole('button', { name: 'Pause', exact: true }).waitFor();
});

pageTest('Scrolling up loads what is older than a day, to its end', {}, async ({ page, site }) => {
  await fill(site, 90, now() - 3 * DAY);
  await fill(site, 60, now() - 100, (number) => ({ log_message: `Today ${number}` }));
  const today = Array.from({ length: 60 }, (_, number) => `Today ${number}`);
  const last = 'From long ago, sent today';
  let requests = 0;
  await page.route('**/recent-logs*before=*', (route) => {
    requests += 1;
    return route.continue({ url: route.request().url().replace(/limit=\d+/, 'limit=50') });
  });
  await open(page, `site=${site}`);
  await untilShown(page, ...today);
  // Older than what will be loaded.
  await post({ site, log_message: last, timestamp: now() - 6 * DAY });
  await untilShown(page, last, ...today);
  assert.equal(requests, 0);
  await page.mouse.move(600, 400);
  await until(async () => {
    await page.mouse.wheel(0, -2000);
    return (await textsOf(page)).length >= 111;
  });
  await until(async () => {
    await page.mouse.wheel(0, -2000);
    return (await textsOf(page)).length === 151;
  });
  assert.deepEqual(await textsOf(page), [last, ...numbered(0, 89), ...today]);
  await page.getByText('There are no older messages.').waitFor();
  assert.equal(requests, 2);
  await post({ site, log_message: 'Live' });
  await untilShown(page, last, ...numbered(0, 89), ...today, 'Live');
});

pageTest(
  'Where a list is too short to scroll a button loads what is older, and says why it cannot',
  { expected: [/status of 503/] },
  async ({ page, site }) => {
    await fill(site, 3, now() - 3 * DAY);
    let failures = 1;
    await page.route((url) => url.pathname.endsWith('recent-logs') && !url.searchParams.has('after_time'), (route) =>
      failures-- > 0 ? route.fulfill(json({ message: 'Storage is away.' }, 503)) : route.continue());
    await open(page, `site=${site}`);
    await page.getByText('No messages in the last 24 hours.').waitFor();
    await page.getByRole('button', { name: 'Load older messages' }).click();
    await page.getByText('Older messages could not be loaded (Storage is away.).').waitFor();
    await page.getByRole('button', { name: 'Load older messages' }).click();
    await untilShown(page, ...numbered(0, 2));
    await page.getByText('There are no older messages.').waitFor();
  },
);

pageTest('Times are those of the browser or UTC', { timezoneId: 'Asia/Kathmandu' }, async ({ page, site }) => {
  const timestamp = Math.floor(now() / DAY) * DAY - 6 * 3600 + 0.25; // 18:00 UTC
  await post({ site, log_message: 'x', timestamp });
  await open(page, `site=${site}`);
  await untilShown(page, 'x');
  const time = rowsOf(page).locator('time');
  assert.equal(await time.textContent(), '23:45:00');
  assert.match(await time.getAttribute('title'), /23:45:00\.250\+05:45\n.* 18:00:00\.250Z$/);
  await page.getByLabel('UTC').check();
  await until(async () => await time.textContent() === '18:00:00');
  assert.equal(new URL(page.url()).search, `?site=${site}&utc`);
  await page.reload();
  await until(async () => await rowsOf(page).count() === 1);
  assert.equal(await time.textContent(), '18:00:00');
  await page.getByLabel('UTC').uncheck();
  await until(async () => await time.textContent() === '23:45:00');
});

pageTest('A bookmark has all that is set', {}, async ({ page, site }) => {
  await page.context().grantPermissions(['notifications']);
  const other = newSite();
  const search = `?site=${site}&site=${other}&level=warning&q=dome+rain&utc&sound&notify`;
  await open(page, search.slice(1));
  const set = () => page.evaluate(() => [
    ...Array.from(document.querySelectorAll('#sites span'), ({ textContent }) => textContent),
    document.querySelector('#least').value, document.querySelector('#search').value,
    ...['utc', 'sound', 'notify'].map((id) => document.getElementById(id).checked),
  ]);
  assert.deepEqual(await set(), [site, other, 'warning', 'dome rain', true, true, true]);
  await page.getByLabel('Sound').uncheck();
  assert.equal(new URL(page.url()).search, search.replace('&sound', ''));
  await page.getByLabel('Sound').check();
  assert.equal(new URL(page.url()).search, search);
  // What makes no sense counts as not given.
  await open(page, `site=&level=loud&utc=0&site=${site}`);
  assert.deepEqual(await set(), [site, 'debug', '', false, false, false]);
});

pageTest('What the address asks for and does not get is said', {}, async ({ page, site }) => {
  const notice = page.locator('#notice');
  const sites = Array.from({ length: 12 }, (_, number) => `site=${site}-${number}`).join('&');
  await open(page, `${sites}&level=loud`);
  await untilIn(page, '#notice', /^10 sites at most: the last 2 of 12 are left out\. There is no level loud: all are shown\.$/);
  const field = page.getByLabel('Add a site');
  assert.ok(await field.isDisabled());
  assert.equal(await field.getAttribute('placeholder'), '10 sites at most');
  assert.ok(await field.evaluate((each) => {
    const text = document.createElement('canvas').getContext('2d');
    text.font = getComputedStyle(each).font;
    return text.measureText(each.placeholder).width < each.clientWidth - parseFloat(getComputedStyle(each).paddingLeft) * 2;
  }), 'the placeholder is cut off');
  await page.getByRole('button', { name: `Remove ${site}-9` }).click();
  assert.equal(await field.getAttribute('placeholder'), 'Add a site');
  await open(page, `site=${site}&level=warning`);
  assert.equal(await notice.textContent(), '');
});

pageTest('On a phone the button says how many filters are set', { viewport: PHONE }, async ({ page, site }) => {
  await open(page, `site=${site}`);
  const button = page.locator('#open-filters');
  assert.equal(await button.textContent(), 'Filters');
  await button.click();
  await page.getByLabel('Level', { exact: true }).selectOption('from error');
  await untilIn(page, '#open-filters', /^Filters · 1$/);
  await page.getByRole('searchbox').fill('dome');
  await untilIn(page, '#open-filters', /^Filters · 2$/);
  await page.reload();
  await untilIn(page, '#open-filters', /^Filters · 2$/);
});

for (const [name, options] of Object.entries({ 'a desktop': {}, 'a phone': { viewport: PHONE } })) pageTest(`A very long message is shown in part, and as a whole at a key: ${name}`, options, async ({ page, site }) => {
  const lines = Array.from({ length: 80 }, (_, number) => `line ${number}`).join('\n');
  await fill(site, 40, now() - 1000);
  await post({ site, log_message: lines, timestamp: now() - 500 });
  await post({ site, log_message: 'x'.repeat(20_000), timestamp: now() - 400 });
  await post({ site, log_message: lines.split('\n', 20).join('\n'), timestamp: now() - 300 });
  await open(page, `site=${site}`);
  await until(async () => await rowsOf(page).count() === 43);
  const row = rowsOf(page).nth(40), heightOf = async (each) => (await each.boundingBox()).height;
  const button = row.getByRole('button', { name: 'Show all' });
  assert.equal(await page.getByRole('button', { name: 'Show all' }).count(), 2);
  for (const at of [40, 41]) assert.ok(await heightOf(rowsOf(page).nth(at)) < 600);
  await row.scrollIntoViewIfNeeded();
  await button.focus();
  const { y } = await row.boundingBox();
  await page.keyboard.press('Enter');
  await row.getByRole('button', { name: 'Show less' }).waitFor();
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  assert.ok(await heightOf(row) > 1400);
  assert.ok(Math.abs((await row.boundingBox()).y - y) < 1, 'the beginning has moved');
  await page.keyboard.press('Enter');
  await button.waitFor();
  assert.ok(await heightOf(row) < 600);
  // A find may be far down.
  if (options.viewport) await page.getByRole('button', { name: 'Filters' }).click();
  await page.getByRole('searchbox').fill('line 79');
  await untilShown(page, lines);
  assert.ok(await isInView(page, page.locator('mark').last()));
});

// ---- Sending

pageTest('A message sent with the form appears once, on every page of its site', { viewport: PHONE }, async ({ page, site }) => {
  await open(page, `site=${site}`);
  const other = await page.context().newPage();
  await open(other, `site=${site}`);
  const field = page.getByLabel('Message', { exact: true });
  await field.fill('Closing');
  await field.press('Shift+Enter');
  await field.pressSequentially('the dome');
  await page.getByLabel('Level of the message').selectOption('critical');
  await page.getByRole('button', { name: 'Send' }).click();
  await untilShown(page, 'Closing\nthe dome');
  assert.equal(await rowsOf(page).locator('.level').textContent(), 'critical');

  await until(async () => (await field.inputValue()) === '', () => 'the field is not emptied');
  await field.fill('Good night');
  await field.press('Enter');
  for (const each of [page, other]) await untilShown(each, 'Closing\nthe dome', 'Good night');
});

pageTest('A refusal is shown to the sender, who keeps the text', { expected: [/status of 413/] }, async ({ page, site }) => {
  await open(page, `site=${site}`);
  const text = 'x'.repeat(140_000);
  const field = page.getByLabel('Message', { exact: true });
  await field.fill(text);
  await page.getByRole('button', { name: 'Send' }).click();
  const alert = page.getByRole('alert').filter({ hasText: "Not sent: 'log_message' is too long" });
  await alert.waitFor();
  assert.equal(await field.inputValue(), text);
  await field.fill('shorter');
  await field.press('Enter');
  await untilShown(page, 'shorter');
  await alert.waitFor({ state: 'hidden' });
});

// ---- The connection

pageTest('The state is shown: connecting, catching up, live, offline, and whether the list is complete', { expected: [CONNECTION_FAILED, /ERR_INTERNET_DISCONNECTED|WebSocket/] }, async ({ t, page, site }) => {
  const proxy = await Proxy.start(t, server);
  await post({ site, log_message: 'before' });
  const gate = () => {
    let open;
    const opened = new Promise((resolve) => { open = resolve; });
    return { opened, open };
  };
  const socket = gate(), history = gate();
  await page.routeWebSocket(/./, async (route) => {
    await socket.opened;
    route.connectToServer();
  });
  await page.route('**/recent-logs*', async (route) => {
    await history.opened;
    await route.continue();
  });
  // The console is from the server, its messages come through the proxy.
  await page.goto(`${server.url}/?site=${site}&http=${proxy.url}`);
  await untilIn(page, '#state', /^Connecting loading$/);
  socket.open();
  await untilIn(page, '#state', /^Catching up loading$/);
  history.open();
  await untilIn(page, '#state', /^Live complete$/);
  await untilShown(page, 'before');
  assert.equal(await page.locator('#where').textContent(), new URL(proxy.url).host);
  proxy.isRefusing = true;
  await page.context().setOffline(true);
  proxy.cut();
  await page.unrouteAll();
  await untilIn(page, '#state', /^Offline messages may be missing$/);
  await post({ site, log_message: 'missed', timestamp: now() + 5 });
  await page.context().setOffline(false);
  await untilIn(page, '#state', /^Connecting messages may be missing$/);
  proxy.isRefusing = false;
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await untilIn(page, '#state', /^Live complete$/);
  await untilShown(page, 'before', 'missed');
});

pageTest('Without a server the page says so, and goes on trying', { expected: [CONNECTION_FAILED] }, async ({ t, page, site }) => {
  const proxy = await Proxy.start(t, server);
  proxy.isRefusing = true;
  await page.goto(`${server.url}/?site=${site}&http=${proxy.url}`);
  const alert = page.getByRole('alert').filter({ hasText: `No connection to ${new URL(proxy.url).host}. Trying again…` });
  await alert.waitFor();
  await untilIn(page, '#state', /^Connecting messages may be missing$/);
  assert.equal(await page.locator('#empty').textContent(), '');
  proxy.isRefusing = false;
  await untilComplete(page);
  await alert.waitFor({ state: 'hidden' });
  await page.getByText('No messages in the last 24 hours.').waitFor();
});

pageTest(
  'A failure to load the history is shown, and the load is retried',
  { expected: [/status of 503/] },
  async ({ page, site }) => {
    await post({ site, log_message: 'before' });
    let failures = 1;
    await page.route('**/recent-logs*', (route) =>
      failures-- > 0 ? route.fulfill(json({ message: 'Storage is away.' }, 503)) : route.continue());
    await page.goto(`${server.url}/?site=${site}`);
    const alert = page.getByRole('alert').filter({ hasText: 'messages may be missing' });
    await alert.filter({ hasText: 'Storage is away.' }).waitFor();
    await untilShown(page, 'before');
    await untilComplete(page);
    await alert.waitFor({ state: 'hidden' });
  },
);

pageTest(
  'After a crash of the server nothing is missing and nothing is shown twice',
  { expected: [CONNECTION_FAILED] },
  async ({ t, page, site }) => {
    const own = await Server.start(t);
    const send = (text) => own.post({ site, log_message: text });
    await send('1: before the page');
    await open(page, `site=${site}`, `${own.url}/`);
    await send('2: live');
    await untilShown(page, '1: before the page', '2: live');
    await own.stop('SIGKILL');
    await untilIn(page, '#state', /^Connecting messages may be missing$/);
    await own.start();
    await send('3: while the page is away');
    await untilShown(page, '1: before the page', '2: live', '3: while the page is away');
    await untilComplete(page);
    await send('4: live again');
    await untilShown(page, '1: before the page', '2: live', '3: while the page is away', '4: live again');
  },
);

pageTest('After a weekend of sleep no gap is shown as if it were none', {}, async ({ page, site }) => {
  await page.clock.install();
  await fill(site, 3, now() - 100);
  await open(page, `site=${site}`);
  await untilShown(page, ...numbered(0, 2));
  await page.clock.fastForward(60 * 3600 * 1000);
  await untilShown(page);
  // What was there can be read again, without a gap.
  await untilComplete(page);
  await page.getByRole('button', { name: 'Load older messages' }).click();
  await untilShown(page, ...numbered(0, 2));
});

// ---- Alarms

pageTest('Errors that come are read aloud, but a flood of them is not', {}, async ({ page, site }) => {
  await post({ site, log_message: 'Old error', log_level: 'error', timestamp: now() - 10 });
  await page.addInitScript(() => {
    globalThis.said = [];
    addEventListener('DOMContentLoaded', () => {
      new MutationObserver(() => said.push(document.querySelector('#spoken').textContent)).observe(document.querySelector('#spoken'), { childList: true });
    });
  });
  await open(page, `site=${site}`);
  await untilShown(page, 'Old error');
  assert.equal(await page.locator('#spoken').getAttribute('aria-live'), 'assertive');
  assert.equal(await page.getByRole('log').getAttribute('aria-live'), 'off');
  await post({ site, log_message: 'No matter', log_level: 'warning' });
  await post({ site, log_message: 'Rain', log_level: 'critical' });
  await untilIn(page, '#spoken', new RegExp(`^critical at ${site}: Rain$`));
  await fill(site, 100, now(), () => ({ log_level: 'error' }));
  await untilIn(page, '#spoken', /^100 errors, the last one: error at .*: Exposure 99$/);
  assert.equal((await page.evaluate(() => said)).length, 2);
});

pageTest('The title and the icon of the tab count the errors that nobody has looked at', {}, async ({ page, site }) => {
  await page.addInitScript(() => { document.hasFocus = () => globalThis.isFocused !== false; });
  await open(page, `site=${site}`);
  const icon = () => page.evaluate(() => document.querySelector('link[rel=icon]').href);
  await until(async () => (await icon()).includes('circle'));
  await post({ site, log_message: 'seen', log_level: 'error' });
  await untilShown(page, 'seen');
  assert.equal(await titleOf(page), `${site} · Logstream`);
  await page.evaluate(() => { globalThis.isFocused = false; });
  await post({ site, log_message: 'unseen', log_level: 'error', timestamp: now() + 1 });
  await post({ site, log_message: 'unseen too', log_level: 'critical', timestamp: now() + 2 });
  await post({ site, log_message: 'no error', timestamp: now() + 3 });
  await untilShown(page, 'seen', 'unseen', 'unseen too', 'no error');
  assert.equal(await titleOf(page), `(2) ${site} · Logstream`);
  assert.ok((await icon()).includes('rect'));
  await page.evaluate(() => { globalThis.isFocused = true; dispatchEvent(new Event('focus')); });
  assert.equal(await titleOf(page), `${site} · Logstream`);
  assert.ok((await icon()).includes('circle'));
});

pageTest('An error makes a sound and a notification, if they are wanted', {}, async ({ page, site }) => {
  await page.context().grantPermissions(['notifications']);
  await page.addInitScript(() => {
    globalThis.tones = 0;
    const { start } = OscillatorNode.prototype;
    OscillatorNode.prototype.start = function (...when) { tones += 1; return start.apply(this, when); };
    globalThis.notes = [];
    globalThis.Notification = class extends Notification {
      constructor(title, options) { super(title, options); notes.push(options.body); }
    };
  });
  const alarms = () => page.evaluate(() => [tones, notes]);
  await open(page, `site=${site}`);
  await post({ site, log_message: 'silent', log_level: 'error' });
  await untilIn(page, '#spoken', /silent/);
  assert.deepEqual(await alarms(), [0, []]);
  await page.getByLabel('Sound').check();
  await page.getByLabel('Notify').check();
  await until(() => query(page).has('notify'));
  assert.deepEqual(await alarms(), [2, []]);
  await page.evaluate(() => Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true }));
  await post({ site, log_message: 'loud', log_level: 'error' });
  await untilIn(page, '#spoken', /loud/);
  assert.deepEqual(await alarms(), [4, [`error at ${site}: loud`]]);
});

pageTest('Where notifications are not allowed the page says so', {}, async ({ page, site }) => {
  await page.addInitScript(() => { Notification.requestPermission = async () => 'denied'; });
  await open(page, `site=${site}`);
  await page.getByLabel('Notify').click();
  await page.getByText('The browser does not allow notifications of this page.').waitFor();
  assert.equal(await page.getByLabel('Notify').isChecked(), false);
  assert.equal(query(page).has('notify'), false);
});

// ---- Copying, keys, and everybody

pageTest('What is shown is copied as text', { timezoneId: 'Asia/Tokyo' }, async ({ page, site }) => {
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  const timestamp = Math.floor(now() / DAY) * DAY - 3600;
  const stamp = new Date((timestamp + 9 * 3600) * 1000).toISOString().slice(0, 19);
  for (const [place, text] of ['one', 'two\nlines', 'three'].entries()) {
    await post({ site, log_message: text, log_level: 'warning', timestamp: timestamp + place / 4 });
  }
  await open(page, `site=${site}`);
  await untilShown(page, 'one', 'two\nlines', 'three');
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  const line = (fraction, text) => `${stamp}.${fraction}+09:00  ${site}  WARNING  ${text}\n`;
  await page.getByRole('button', { name: 'Copy' }).click();
  await page.getByText('3 messages copied.').waitFor();
  assert.equal(await copied(), line('000', 'one') + line('250', 'two\nlines') + line('500', 'three'));
  await page.getByRole('searchbox').fill('o');
  await untilShown(page, 'one', 'two\nlines');
  // As in a page without https.
  await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true }));
  await page.getByRole('button', { name: 'Copy' }).click();
  await page.getByText('2 messages copied.').waitFor();
  await page.evaluate(() => { delete navigator.clipboard; });
  assert.equal(await copied(), line('000', 'one') + line('250', 'two\nlines'));
  await page.getByRole('searchbox').fill('');
  await untilShown(page, 'one', 'two\nlines', 'three');
  await page.evaluate(() => {
    const texts = document.querySelectorAll('#log .text');
    getSelection().setBaseAndExtent(texts[1], 0, texts[2], texts[2].childNodes.length);
  });
  await page.keyboard.press('Control+C');
  assert.equal(await copied(), line('250', 'two\nlines') + line('500', 'three'));
});

pageTest('Everything can be done with the keyboard alone', {}, async ({ page, site }) => {
  const other = newSite();
  await fill(site, 300, now() - 1000);
  await fill(other, 1, now() - 1000, () => ({ log_message: 'there' }));
  await open(page, `site=${site}`);
  await untilShown(page, ...numbered(0, 299));
  const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute('aria-label') || document.activeElement.textContent);
  // All controls are reached, in their order, and show it. The button of the
  // older messages goes when there are none.
  let end;
  const atEnd = new Promise((resolve) => { end = resolve; });
  await page.route('**/recent-logs*before=*', async (route) => {
    await atEnd;
    await route.continue();
  });
  const order = [];
  for (let step = 0; step < 16; step++) {
    await page.keyboard.press('Tab');
    order.push(await focused());
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, 'solid', order.join());
    // It is scrolled to, so this button appears.
    if (order.at(-1) === 'older') await page.locator('#newest').waitFor();
    if (order.at(-1) === 'Send') break;
  }
  assert.deepEqual(order, ['pause', 'site', 'Add', 'least', 'search', 'utc', 'sound', 'notify', 'copy', 'log', 'older', 'newest', 'text', 'level', 'Send']);
  await page.locator('#older').focus();
  end();
  await page.getByText('There are no older messages.').waitFor();
  assert.equal(await focused(), 'log');

  await page.locator('#site').focus();
  await page.keyboard.type(other);
  await page.keyboard.press('Enter');
  await until(async () => (await textsOf(page)).includes('there'));
  await page.getByRole('button', { name: `Remove ${other}` }).focus();
  await page.keyboard.press('Space');
  await until(async () => !(await textsOf(page)).includes('there'));
  await untilShown(page, ...numbered(0, 299));
  assert.equal(await focused(), 'site');

  // From the list.
  await page.getByRole('log').focus();
  await page.keyboard.press('Home');
  await until(() => isInView(page, rowsOf(page).first()), () => 'the oldest row is not in view');
  await page.locator('#newest').waitFor();
  await page.keyboard.press('End');
  await page.locator('#newest').waitFor({ state: 'hidden' });
  await page.keyboard.press('p');
  await untilIn(page, '#pause', /^Resume/);
  await page.keyboard.press('p');
  await untilIn(page, '#pause', /^Pause$/);
  await page.keyboard.press('/');
  assert.equal(await focused(), 'search');
  await page.keyboard.type('299');
  await untilShown(page, 'Exposure 299');
  await page.keyboard.press('Escape');
  await untilShown(page, ...numbered(0, 299));
  await page.keyboard.type('p/c');
  await page.keyboard.press('Enter');
  assert.equal(await focused(), 'log');
  assert.equal(await page.locator('#pause').textContent(), 'Pause');
});

for (const [name, options] of Object.entries({
  light: { colorScheme: 'light' }, dark: { colorScheme: 'dark' }, 'a phone': { viewport: PHONE, hasTouch: true }, 'a dark phone': { viewport: PHONE, colorScheme: 'dark' },
})) {
  pageTest(`axe finds nothing: ${name}`, { ...options, bypassCSP: true, reducedMotion: 'reduce' }, async ({ page, site }) => {
    const other = newSite();
    const levels = ['debug', 'info', 'warning', 'error', 'critical'];
    await fill(site, 60, now() - 100, (number) => ({ log_level: levels[number % 5] }));
    await fill(other, 2, now() - 10);
    await open(page, `site=${site}&site=${other}&q=e`);
    await until(async () => await rowsOf(page).count() === 62);
    if (options.viewport) {
      assert.equal(await page.locator('#filters').isVisible(), false);
      await page.getByRole('button', { name: 'Filters' }).click();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
    }
    const check = async () => {
      await page.evaluate(axe.source);
      const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
      assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes[0].html, nodes[0].failureSummary]), []);
      assert.ok(passes.length > 20);
    };
    await check();
    await page.getByRole('button', { name: 'Pause' }).click();
    await page.locator('#log').evaluate((log) => { log.scrollTop = -600; });
    await page.locator('#newest').waitFor();
    await page.route('**/newlog', (route) => route.fulfill(json({ message: 'No.' }, 200)));
    await check();
  });
}

pageTest('On a phone everything fits, and a level is more than a colour', { viewport: PHONE, hasTouch: true }, async ({ page, site }) => {
  await post({ site, log_message: `https://example.org/${'x'.repeat(300)}`, log_level: 'error' });
  await open(page, `site=${site}&site=${'y'.repeat(100)}${site}`);
  await until(async () => await rowsOf(page).count() === 1);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
  assert.equal(await page.evaluate(() => document.querySelector('#log').scrollWidth), PHONE.width);
  await page.getByRole('button', { name: 'Filters' }).tap();
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
  await page.getByLabel('Level', { exact: true }).selectOption('from error');
  await until(() => query(page).get('level') === 'error');
  for (const button of await page.getByRole('button').all()) {
    if (!await button.isVisible() || await button.evaluate((each) => getComputedStyle(each).position === 'absolute')) continue;
    const { width, height } = await button.boundingBox();
    assert.ok(width >= 24 && height >= 24, await button.textContent());
  }
  const shapes = await page.evaluate(() => ['debug', 'info', 'warning', 'error', 'critical'].map((level) => {
    const row = document.querySelector('#log li');
    row.className = level;
    return getComputedStyle(row.querySelector('.level'), '::before').clipPath;
  }));
  assert.equal(new Set(shapes).size, 5);
});

// ---- Where it comes from

for (const takesOff of [true, false]) {
  pageTest(`Under a prefix of a proxy that ${takesOff ? 'takes it off' : 'leaves it on'}, all goes through it`, {}, async ({ t, page, site }) => {
    const address = await reverseProxy(t, '/observatory/logs/', takesOff);
    await post({ site, log_message: 'stored' });
    const urls = [];
    page.on('request', (request) => urls.push(request.url()));
    page.on('websocket', (socket) => urls.push(socket.url().replace('ws:', 'http:')));
    await open(page, `site=${site}`, address);
    await untilShown(page, 'stored');
    await page.getByLabel('Message', { exact: true }).fill('sent');
    await page.keyboard.press('Enter');
    await untilShown(page, 'stored', 'sent');
    const prefix = address.replace(/\/$/, '');
    assert.deepEqual(urls.filter((url) => !url.startsWith(prefix) && !url.startsWith('data:')), []);
    assert.ok(urls.length >= 7, urls.join());
  });
}

pageTest('From any web host it shows the deployment that its address names', {}, async ({ t, page, site }) => {
  const address = await host(t, '/tools/console/');
  const proxy = await Proxy.start(t, server);
  await post({ site, log_message: 'stored', log_level: 'error', timestamp: now() - 2 });
  const urls = [];
  page.on('request', (request) => urls.push(request.url()));
  const search = new URLSearchParams([['http', server.url], ['ws', proxy.url.replace('http', 'ws')], ['site', site], ['level', 'warning']]);
  for (const file of ['', 'index.html']) {
    await open(page, search, `${address}${file}`);
    await until(async () => (await textsOf(page))[0] === 'stored');
    await page.getByLabel('Level of the message').selectOption('error');
    await page.getByLabel('Message', { exact: true }).fill(`sent${file}`);
    await page.keyboard.press('Enter');
    await until(async () => (await textsOf(page)).includes(`sent${file}`));
  }
  assert.equal(proxy.sockets, 2);
  assert.equal(await page.locator('#where').textContent(), new URL(server.url).host);
  // A change keeps the deployment.
  await page.getByLabel('UTC').check();
  assert.equal(query(page).get('http'), server.url);
  assert.equal(query(page).get('ws'), proxy.url.replace('http', 'ws'));
  assert.deepEqual(urls.filter((url) => !url.startsWith(address) && !url.startsWith(server.url) && !url.startsWith('data:')), []);
});

for (const search of [
  'http=javascript:globalThis.attacked=true', 'ws=javascript:globalThis.attacked=true', 'http=data:text/html,x', 'http=file:///etc/passwd',
  'http=ws://127.0.0.1', 'ws=ftp://127.0.0.1', 'http=https://a:b@127.0.0.1', 'http=http://[', 'http=blob:http://127.0.0.1/1',
  'http=127.0.0.1:3478', 'ws=127.0.0.1:3478', 'http=localhost:3478',
]) {
  pageTest(`An address that is none does no harm: ${search}`, {}, async ({ page, site }) => {
    const requests = [];
    await page.goto(`${server.url}/?site=${site}&${search}`);
    page.on('request', (request) => requests.push(request.url()));
    page.on('websocket', (socket) => requests.push(socket.url()));
    await page.getByRole('alert').filter({ hasText: /The address of this page has a wrong '(http|ws)': .*; expected one such as (https|wss):/ }).waitFor();
    assert.equal(await page.getByRole('button', { name: 'Load older messages' }).count(), 0);
    await untilIn(page, '#state', /^Not connected $/);
    await page.getByLabel('Level', { exact: true }).selectOption('from error');
    await page.getByLabel('Add a site').fill('b');
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Remove b' }).click();
    assert.deepEqual(requests.filter((url) => !url.startsWith('data:')), []);
    assert.equal(await page.evaluate(() => globalThis.attacked), undefined);
  });
}

test('The server sends each file with its type, its policy, and so that no browser keeps an old one', async () => {
  for (const [path, file, type] of [
    ['/', 'index.html', 'text/html'], ['/console.css', 'console.css', 'text/css'],
    ['/console.js', 'console.js', 'text/javascript'], ['/logstream.js', 'logstream.js', 'text/javascript'],
    ['/a/prefix/', 'index.html', 'text/html'], ['/a/prefix/console.js', 'console.js', 'text/javascript'],
  ]) {
    for (const method of ['GET', 'HEAD']) {
      const answer = await fetch(server.url + path, { method });
      assert.equal(answer.status, 200, path);
      assert.equal(answer.headers.get('Content-Type'), `${type}; charset=utf-8`);
      assert.equal(answer.headers.get('Cache-Control'), 'no-cache');
      assert.equal(answer.headers.get('X-Content-Type-Options'), 'nosniff');
      assert.match(answer.headers.get('Content-Security-Policy'), /^default-src 'none'; script-src 'self';/);
      const text = await readFile(new URL(file, CONSOLE), 'utf8');
      assert.equal(Number(answer.headers.get('Content-Length')), Buffer.byteLength(text));
      assert.equal(await answer.text(), method === 'GET' ? text : '');
    }
  }
  for (const [method, path] of [['POST', '/'], ['GET', '/console.html'], ['GET', '/a/prefix'], ['GET', '/newlog/'], ['DELETE', '/console.js']]) {
    assert.equal((await fetch(server.url + path, { method })).status, 404, `${method} ${path}`);
  }
});

// ---- Much

pageTest('10,000 messages, and 100 more each second, without a stutter', { timeout: 300_000 }, async ({ t, page, site }) => {
  await fill(site, 10_000, now() - 11_000, (number) => ({
    log_level: ['debug', 'info', 'info', 'warning', 'info', 'error'][number % 6],
    log_message: `Exposure ${number}: ${'guiding on star 14, rms 0.41", focus 11420. '.repeat(number % 7 === 0 ? 5 : 1)}`,
  }));
  await page.addInitScript(() => {
    globalThis.frames = [];
    globalThis.tasks = [];
    let last;
    requestAnimationFrame(function tick(time) {
      if (last) frames.push(time - last);
      last = time;
      requestAnimationFrame(tick);
    });
    new PerformanceObserver((list) => { for (const { duration } of list.getEntries()) tasks.push(duration); }).observe({ type: 'longtask' });
  });
  const measured = async (what) => {
    const { frames, tasks } = await page.evaluate(() => ({ frames: globalThis.frames.splice(0), tasks: globalThis.tasks.splice(0) }));
    frames.sort((a, b) => a - b);
    const share = (part) => Math.round(frames[Math.floor(part * (frames.length - 1))]);
    t.diagnostic(`${what}: ${frames.length} frames, half within ${share(0.5)} ms, 95 % within ${share(0.95)} ms, the longest ${share(1)} ms; ${tasks.length} long tasks, the longest ${Math.round(Math.max(0, ...tasks))} ms`);
    return share(0.95);
  };
  const began = Date.now();
  await open(page, `site=${site}`);
  await until(async () => await rowsOf(page).count() === 10_000, async () => `${await rowsOf(page).count()} rows`, 60);
  t.diagnostic(`all ${await rowsOf(page).count()} rows after ${Date.now() - began} ms`);
  await measured('loading');

  // Ten in a request, so that a server without optimization keeps up.
  const flood = async (count) => {
    const start = Date.now();
    for (let sent = 0; sent < count; sent += 10) {
      await sleep(Math.max(0, start + 10 * sent - Date.now()));
      await post(Array.from({ length: 10 }, (_, place) => ({ site, log_message: `Live ${sent + place}`, timestamp: Date.now() / 1000 + place / 1000 })));
    }
    return (1000 * count) / (Date.now() - start);
  };
  const rate = await flood(500);
  t.diagnostic(`${Math.round(rate)} messages/s`);
  const end = await measured('at the newest');
  await page.mouse.move(600, 400);
  const scrolling = (async () => {
    for (let step = 0; step < 60; step++) await page.mouse.wheel(0, -600);
  })();
  await flood(300);
  await scrolling;
  const reading = await measured('while somebody scrolls up');
  await page.getByRole('searchbox').fill('star 77');
  await untilIn(page, '#count', /^\d+ of 10,\d+$/);
  await measured('a search');
  await page.getByRole('searchbox').fill('');
  await untilIn(page, '#count', /^10,\d+ messages$/);
  await page.locator('#log').evaluate((log) => { log.scrollTop = 0; });
  // All of it, and not more.
  await until(async () => await rowsOf(page).count() === 10_000, async () => `${await rowsOf(page).count()} rows`, 60);
  // Where all rows are laid out for each frame, it is ten times as much.
  for (const most of [end, reading]) assert.ok(most <= 100, `5 % of the frames take more than ${most} ms`);
});
