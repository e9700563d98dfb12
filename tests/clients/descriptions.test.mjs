// The pages that docs/pages/run makes of both descriptions, in a browser.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';
import { promisify } from 'node:util';

import { chromium } from 'playwright-core';

import { onlyLocal } from './support.mjs';

const pages = new URL('../../docs/pages/', import.meta.url);

test('The pages of both descriptions show all of it, without an error', { ...onlyLocal('it needs Chromium'), timeout: 300_000 }, async (t) => {
  await promisify(execFile)(new URL('run', pages).pathname);
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-quic'] });
  t.after(() => browser.close());
  const page = await browser.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (entry) => { if (entry.type() === 'error') errors.push(entry.text()); });
  await page.goto(new URL('out/index.html', pages).href);
  await page.getByRole('link', { name: 'The HTTP API' }).click();
  for (const path of ['/newlog', '/recent-logs', '/onlineusers']) await page.getByText(path, { exact: true }).first().waitFor();
  assert.equal(await page.getByText(/resolver error/i).count(), 0);
  await page.goBack();
  await page.getByRole('link', { name: 'The WebSocket API' }).click();
  for (const title of ['A message', 'What is wrong', 'Replaces the sites and the level', 'Asks for a sign of life']) {
    await page.getByText(title, { exact: true }).filter({ visible: true }).first().waitFor();
  }
  assert.deepEqual(errors, []);
});
