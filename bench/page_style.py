"""The look of the report page: one sheet, light and dark, readable on paper and on a telephone."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root{color-scheme:light dark;--bg:#fbfbf9;--card:#fff;--ink:#1c2024;--soft:#667079;--line:#e3e5e3;
--grid:#eceeec;--ours:#1f6feb;--bare:#8b949e;--good:#1a7f4b;--bad:#c6362c;--warn:#b25e00;
--track:#eef1f4;--c1:#d9730d;--c2:#16867a;--c3:#8a4fd0;--c4:#c02f6f;--c5:#6b7a1f}
@media (prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1b1f24;--ink:#e6e8ea;--soft:#98a2ab;
--line:#2d333a;--grid:#262b31;--ours:#58a6ff;--bare:#8b949e;--good:#4cc38a;--bad:#ff7b72;
--warn:#f0a050;--track:#252b32;--c1:#f0a050;--c2:#4cc3b5;--c3:#b794f4;--c4:#f078a8;--c5:#b5c55a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,
"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1280px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:28px;margin:0;letter-spacing:-.01em}
h2{font-size:19px;margin:0 0 10px}
p{margin:0 0 8px}
a{color:var(--ours);text-decoration:none}a:hover{text-decoration:underline}
.sub{color:var(--soft);font-size:14px}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:20px 22px;
margin:18px 0}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(165px,1fr));gap:10px 18px;
margin:16px 0 0}
.facts dt,.conditions dt{color:var(--soft);font-size:12px}
.facts dd{margin:0;font-size:14px}
.verdict{border-left:5px solid var(--good)}.verdict.bad{border-left-color:var(--bad)}
.verdict p:last-child{margin:0}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;font-weight:600;color:var(--soft);font-size:12px;border-bottom:1px solid
var(--line);padding:6px 8px;white-space:nowrap}
td{padding:5px 8px;border-bottom:1px solid var(--grid);vertical-align:top}
tbody tr:last-child td{border-bottom:0}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
small{color:var(--soft);font-size:12px}
.wide{overflow-x:auto}
.rows td:first-child{min-width:230px;max-width:320px}
.rows td,.rows th{padding:5px 6px}
summary{cursor:pointer;list-style:none}
summary::before{content:"›";display:inline-block;width:14px;color:var(--soft)}
details[open] summary::before{content:"⌄"}
.conditions{display:grid;grid-template-columns:max-content 1fr;gap:1px 12px;margin:8px 0 10px 14px;
font-size:12px}
.conditions dd{margin:0;overflow-wrap:anywhere}
.better{color:var(--good);font-weight:600}.worse{color:var(--bad);font-weight:600}
.noise,.unknown{color:var(--soft)}
.bound{color:var(--warn)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:18px;
margin:4px 0 18px}
figure{margin:0}figcaption{font-weight:600;font-size:14px;margin-bottom:2px}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;font-size:12px;color:var(--soft);padding-left:8px}
.shared{margin:2px 0 0;padding-left:8px;font-size:12px;color:var(--soft)}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;margin-right:6px;
vertical-align:middle;background:currentColor}
.legend .s0 i{color:var(--ours)}.legend .s1 i{color:var(--c1)}.legend .s2 i{color:var(--c2)}
.legend .s3 i{color:var(--c3)}.legend .s4 i{color:var(--c4)}.legend .s5 i{color:var(--c5)}
.legend .bare i{color:var(--bare)}
svg{display:block}.chart{width:100%;height:auto}.strips{width:100%;height:auto;margin:4px 0 14px}
.bar{width:140px;height:20px}
svg text{fill:var(--soft);font-size:12px;font-family:inherit}
svg .axis{font-size:12px}svg .name{fill:var(--ink);font-size:14px}
.grid{stroke:var(--grid)}.base{stroke:var(--line)}.one{stroke:var(--soft);stroke-dasharray:3 3}
.line{fill:none;stroke-width:2}.whisker{stroke-width:1.2;opacity:.55}
.s0{stroke:var(--ours)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}
.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}.bare{stroke:var(--bare)}
.line.bare,.line.dashed{stroke-dasharray:5 4}
.line.dashed{stroke-width:1.3}
circle.dot{stroke:var(--card);stroke-width:1}
circle.s0{fill:var(--ours)}circle.s1{fill:var(--c1)}circle.s2{fill:var(--c2)}
circle.s3{fill:var(--c3)}circle.s4{fill:var(--c4)}circle.s5{fill:var(--c5)}
circle.bare{fill:var(--bare)}circle.loose{fill-opacity:.55}
.track{fill:var(--track)}.value{fill:var(--ours);fill-opacity:.75}
.ceiling{stroke:var(--ink);stroke-width:2}.ceiling-spread{fill:var(--ink);fill-opacity:.13}
.spread{stroke:var(--ink);stroke-opacity:.7;fill:none}
.read ul{margin:0;padding-left:20px}.read li{margin:3px 0}
@media (max-width:720px){main{padding:16px 10px}section{padding:14px}.hide{display:none}
.charts{grid-template-columns:1fr}.rows td:first-child{min-width:120px}}
@media print{section{break-inside:avoid}body{background:#fff}}
"""
