"""The style sheet of the report: light and dark, wide and narrow, without anything from outside."""

CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --dim: #59636e; --page: #ffffff; --line: #d1d9e0; --head: #f3f5f7;
  --link: #0550ae; --mark: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --dim: #a3adb8; --page: #15181c; --line: #3a424b;
  --head: #20252b; --link: #79b8ff; --mark: #3a3216; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; margin: .5rem 0; }
.dim { color: var(--dim); font-size: .9rem; }
.marks { background: var(--mark); border-radius: 6px; padding: .5rem .8rem; list-style: none; margin: .8rem 0;
  width: fit-content; max-width: 100%; }
.wide { overflow-x: auto; margin: .6rem 0; }
.wide:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { background: var(--head); }
tbody th { font-weight: 500; position: sticky; left: 0; background: var(--page); white-space: normal; min-width: 8rem;
  max-width: 15rem; }
tr.host th { font-weight: 700; }
figure { margin: .8rem 0; }
figure .wide { background: #ffffff; border: 1px solid var(--line); border-radius: 8px; padding: 8px; width: fit-content;
  max-width: 100%; }
figure img { display: block; height: auto; }
figcaption { color: var(--dim); font-size: .9rem; margin-top: .3rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 500; }
@media (max-width: 40rem) { body { padding: .7rem; } h1 { font-size: 1.35rem; } th, td { padding: .25rem .4rem; }
  tbody th { min-width: 6rem; max-width: 8.5rem; } }
@media print { .wide { overflow: visible; } figure img { max-width: 100% !important; min-width: 0 !important; } }
"""
