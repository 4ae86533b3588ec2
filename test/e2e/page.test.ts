import { RunStatus } from '@spindle/proto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root } from '../harness/child.js';
import { tinyConfig } from '../harness/config.js';
import { Mesh } from '../harness/mesh.js';

const executablePath = process.env['SPINDLE_CHROMIUM'] ?? '/usr/bin/chromium';
const args = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
];
const pictures = join(root, '.cache/test');

describe('the status page in a browser', () => {
  let mesh: Mesh;
  let browser: Browser;
  let page: Page;
  let link: string;
  const trouble: string[] = [];

  beforeAll(async () => {
    await mkdir(pictures, { recursive: true });
    [mesh, browser] = await Promise.all([Mesh.start(), chromium.launch({ executablePath, args })]);
    link = (await mesh.spindle('page', '--url', mesh.pageUrl)).stdout.trim();
    page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    page.on('pageerror', (error) => trouble.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') trouble.push(message.text());
    });
    page.on('request', (request) => {
      if (!request.url().startsWith(mesh.pageUrl) && !/^(data|blob):/.test(request.url()))
        trouble.push(`asks for ${request.url()}`);
    });
  });
  afterAll(async () => {
    await browser.close();
    await mesh.stop();
  });

  it('says what to do when there is no run', async () => {
    await page.goto(link);
    expect(page.url()).toBe(mesh.pageUrl);
    await page
      .getByText(/spindle run/)
      .first()
      .waitFor();
    expect(trouble).toEqual([]);
  });

  it('follows a run without a reload, to its results, plots and images', async () => {
    await mesh.create(tinyConfig(), 'watched');
    await page.goto(mesh.pageUrl);
    await page.getByText('watched').first().waitFor();
    await page
      .getByText(/train-spin1/)
      .first()
      .waitFor({ timeout: 120_000 });
    expect((await mesh.ended('watched')).status).toBe(RunStatus.SUCCEEDED);
    await page
      .getByText(/succeeded/i)
      .first()
      .waitFor({ timeout: 30_000 });
    for (const model of ['base', 'sft', 'spin1', 'spin2'])
      await page.getByText(model, { exact: true }).first().waitFor();
    await page.locator('svg, canvas').first().waitFor();
    await page.locator('img').first().waitFor();
    await page.locator('img').last().scrollIntoViewIfNeeded();
    const broken = await page
      .locator('img')
      .evaluateAll(
        (images) =>
          images.filter(
            (image) =>
              (image as unknown as { complete: boolean; naturalWidth: number }).complete &&
              (image as unknown as { naturalWidth: number }).naturalWidth === 0,
          ).length,
      );
    expect(broken).toBe(0);
    await page.evaluate('scrollTo(0, 0)');
    await page.screenshot({ path: join(pictures, 'page.png'), fullPage: true });
    expect(trouble).toEqual([]);
  });

  it('fits a narrow screen and follows a dark system', async () => {
    const narrow = await browser.newPage({
      viewport: { width: 390, height: 800 },
      colorScheme: 'dark',
    });
    await narrow.goto(link);
    await narrow
      .getByText(/succeeded/i)
      .first()
      .waitFor();
    await narrow.locator('img').first().waitFor();
    await narrow.screenshot({ path: join(pictures, 'page-narrow-dark.png'), fullPage: true });
    expect(
      await narrow.evaluate('getComputedStyle(document.documentElement).colorScheme'),
    ).toContain('dark');
    // One pixel of rounding is no scroll bar.
    expect(
      await narrow.evaluate(
        'document.documentElement.scrollWidth - document.documentElement.clientWidth',
      ),
    ).toBeLessThanOrEqual(1);
    await narrow.close();
  });

  it('says to a browser that did not come by the link how to get it', async () => {
    const stranger = await browser.newPage();
    expect((await stranger.goto(mesh.pageUrl))?.status()).toBe(401);
    await stranger.getByText('npx spindle page').waitFor();
    await stranger.close();
  });

  it('opens by the link on a page of another site, which cannot look at it itself', async () => {
    const other = await browser.newPage();
    await other.route('http://other.example/', (route) =>
      route.fulfill({
        contentType: 'text/html',
        body: `<a href="${link}">the page</a><img src="${mesh.pageUrl}favicon.svg">`,
      }),
    );
    await other.goto('http://other.example/');
    await other.getByText('the page').click();
    await other.getByText('watched').first().waitFor();
    expect(other.url()).toMatch(new RegExp(`^${mesh.pageUrl}(#|$)`));
    // The cookie is there now, and does not go with what another site asks for.
    await other.goto('http://other.example/');
    const told = await other.evaluate(
      `Promise.all([
        fetch('${mesh.pageUrl}api/runs', { credentials: 'include' }).then(() => 'read', () => 'no'),
        new Promise((done) => {
          const image = new Image();
          image.onload = () => done('loaded');
          image.onerror = () => done('no');
          image.src = '${mesh.pageUrl}favicon.svg';
        }),
      ])`,
    );
    expect(told).toEqual(['no', 'no']);
    await other.close();
  });

  it('is not for web pages of other names', async () => {
    const { request } = await import('node:http');
    const headers = { host: 'evil.example', authorization: `Bearer ${mesh.token}` };
    const status = await new Promise<number>((resolve, reject) => {
      request(`${mesh.pageUrl}api/runs`, { headers }, (answer) => resolve(answer.statusCode ?? 0))
        .on('error', reject)
        .end();
    });
    expect(status).toBe(403);
  });
});
