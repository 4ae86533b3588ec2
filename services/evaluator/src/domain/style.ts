/**
 * The page's style sheet; the palette stays readable in both schemes and for colour-blind readers.
 */
export const style = `
:root{--page:#fbfaf8;--card:#fff;--ink:#1d1d1f;--soft:#6b6b70;--rule:#e4e2dd;--accent:#0f766e;--best:#ecf6f4;--warn:#fff6e5;--warn-rule:#e2a93b;
--c1:#0072b2;--c2:#d55e00;--c3:#009e73;--c4:#b5569b;--c5:#8a6d00;--c6:#4b5563}
@media (prefers-color-scheme:dark){:root{--page:#131416;--card:#1c1e21;--ink:#ececec;--soft:#9a9ba1;--rule:#303338;--accent:#4fd1c5;--best:#16302d;--warn:#2e2714;--warn-rule:#c08a2a;
--c1:#56b4e9;--c2:#f28e4b;--c3:#3ecf9f;--c4:#e29ac9;--c5:#e5c94b;--c6:#a7adb8}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 64px}h1{font-size:28px;margin:0 0 12px;letter-spacing:-.01em}h2{font-size:19px;margin:0 0 12px}h3{font-size:15px;margin:18px 0 6px;color:var(--soft);font-weight:600}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}h1 code{font-size:.85em}
header dl{display:flex;flex-wrap:wrap;gap:12px 32px;margin:0 0 8px}dt{color:var(--soft);font-size:12px}dd{margin:0;font-size:17px;font-weight:600}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:20px;margin-top:20px}.warnings{background:var(--warn);border-color:var(--warn-rule)}.warnings ul{margin:0;padding-left:18px}
.scroll{overflow-x:auto}.scroll td{font-size:14px}.scroll td small{display:block;line-height:1.3}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:7px 12px 7px 0;text-align:left;border-bottom:1px solid var(--rule);white-space:nowrap}
thead th{color:var(--soft);font-size:12px;font-weight:500}tbody th{font-weight:600}tbody tr:last-child>*{border-bottom:0}tr.best{background:var(--best)}tr.best>:first-child{padding-left:8px}small,.note,.none{color:var(--soft)}.note{font-size:13px;margin:12px 0 0;max-width:75ch}
.badge{background:var(--accent);color:var(--card);border-radius:99px;padding:1px 8px;font-size:11px;font-weight:600;vertical-align:1px}
.bar{display:inline-block;width:64px;height:8px;border-radius:4px;margin-right:8px;background:linear-gradient(90deg,var(--accent) var(--share),var(--rule) 0)}.bar.wide{width:200px}table.narrow{width:auto}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:24px}.plot{margin:0}figcaption{font-weight:600;font-size:14px;margin-bottom:4px}.plot svg{width:100%;height:auto;display:block}
.grid{stroke:var(--rule);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}.reference{stroke:var(--soft);stroke-width:1;stroke-dasharray:2 3}.tick{fill:var(--soft);font-size:11px}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.line.dashed{stroke-dasharray:5 4;opacity:.75}
.c1{stroke:var(--c1);color:var(--c1)}.c2{stroke:var(--c2);color:var(--c2)}.c3{stroke:var(--c3);color:var(--c3)}.c4{stroke:var(--c4);color:var(--c4)}.c5{stroke:var(--c5);color:var(--c5)}.c6{stroke:var(--c6);color:var(--c6)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:12px;color:var(--soft);padding-left:12%}.key{display:inline-block;width:18px;border-top:2.5px solid currentColor;vertical-align:3px;margin-right:6px}.key.dashed{border-top-style:dashed}
.grid-table th[scope=row]{white-space:normal;min-width:180px;max-width:240px;font-weight:400;font-size:13px}.grid-table small{display:block}.grid-table img{width:112px;height:112px;object-fit:contain;image-rendering:pixelated;border-radius:4px;display:block;background:var(--rule);box-shadow:0 0 0 1px var(--rule)}
pre{overflow-x:auto;font-size:12px;margin:12px 0 0}summary{cursor:pointer}
`;
