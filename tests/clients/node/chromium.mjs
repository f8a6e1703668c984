// Headless Chromium, driven by Playwright: one navigation for the first argument, and for the others that
// have the same origin a fetch by the page.

import { chromium } from 'playwright-core';

import { TEST_FLAGS, launchOptions } from './chromium-options.mjs';
import { PROXY, answer, failure, urls } from './report.mjs';

const { args = [], ...options } = PROXY ? launchOptions(PROXY) : {};
const executablePath = process.env.CHROMIUM;
const browser = await chromium.launch({ executablePath, ...options, args: [...args, ...TEST_FLAGS] });

try {
  const page = await browser.newPage();
  for (const url of urls) {
    try {
      if (page.url() !== 'about:blank' && new URL(page.url()).origin === new URL(url).origin) {
        const got = await page.evaluate(async (url) => {
          const response = await fetch(url, { cache: 'no-store' });
          return { status: response.status, body: await response.text() };
        }, url);
        answer(got.status, got.body);
      } else {
        const response = await page.goto(url, { timeout: 120_000 });
        answer(response.status(), await response.text());
      }
    } catch (error) {
      // The rest is Playwright's log of the call.
      failure(new Error(error.message.split('\n', 1)[0]));
    }
  }
} finally {
  await browser.close();
}
