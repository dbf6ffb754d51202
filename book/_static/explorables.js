// Pictures to move by hand. Data and controls stand in the page; rbDraw makes panels and a sentence of them.
"use strict";
{
  const fix = (v, digits = 1) => String(+v.toFixed(digits));
  const scale = (from, to, low, high) => (v) => low + ((v - from) / (to - from)) * (high - low);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => sum(values) / values.length;
  const clamp = (v, low, high) => Math.min(Math.max(v, low), high);
  const signed = (v, digits) => v.toFixed(digits).replace(/^-(0\.0*)$/, "$1").replace("-", "\u2212");
  const percent = (v) => `${Math.round(100 * v)}\u202f%`;
  const join = (points) => `M${points.map(([x, y]) => `${fix(x)} ${fix(y)}`).join("L")}`;
  const pairs = (flat) => Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]);

  // Marks: every one is a string of SVG, its colour is a class.
  const path = (d, look) => `<path class="${look}" d="${d}"/>`;
  const line = (x1, y1, x2, y2, look) => path(join([[x1, y1], [x2, y2]]), look);
  const dots = (points, look) => path(points.map(([x, y]) => `M${fix(x)} ${fix(y)}h0`).join(""), `dots ${look}`);
  const disc = (x, y, r, look) => `<circle class="${look}" cx="${fix(x)}" cy="${fix(y)}" r="${fix(r)}"/>`;
  const text = (x, y, words, look = "") => `<text class="${look}" x="${fix(x)}" y="${fix(y)}">${words}</text>`;
  const arrow = (x1, y1, x2, y2, look, size = 9) => {
    const a = Math.atan2(y2 - y1, x2 - x1);
    const at = (r, turn) => [x2 - r * Math.cos(a + turn), y2 - r * Math.sin(a + turn)];
    const shaft = line(x1, y1, ...at(size * 0.8, 0), `stroke thick ${look}`);
    return shaft + path(`${join([[x2, y2], at(size, 0.42), at(size, -0.42)])}Z`, `fill ${look}`);
  };
  const frame = (width, height, parts, title = "", look = "") =>
    `<div class="rb-x-panel ${look}"><p class="rb-x-title">${title}</p>` +
    `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true">${parts.join("")}</svg></div>`;

  // Heights for labels that want to stand at these heights, but not on one another.
  const apart = (wanted, gap) => {
    const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b]);
    const found = [...wanted];
    for (let k = 1; k < order.length; k++) {
      found[order[k]] = Math.max(found[order[k]], found[order[k - 1]] + gap);
    }
    const shift = mean(found) - mean(wanted);
    return found.map((y) => y - shift);
  };

  // ---------------------------------------------------------------- dann

  const logit = (net, hidden) => (x, y) => {
    let value = net[4 * hidden];
    for (let j = 0; j < hidden; j++) {
      const into = net[2 * j] * x + net[2 * j + 1] * y + net[2 * hidden + j];
      value += net[3 * hidden + j] / (1 + Math.exp(-into));
    }
    return value;
  };

  // Where a function is positive, and its zero line, on a grid of cells in the units of the picture.
  const zones = (value, columns, rows, side) => {
    const at = Array.from({ length: rows + 1 }, (_, j) =>
      Array.from({ length: columns + 1 }, (_, i) => value(i * side, j * side)));
    let area = "";
    let border = "";
    for (let j = 0; j < rows; j++) {
      let run = -1;
      for (let i = 0; i <= columns; i++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
        const inside = i < columns ? corners.map(([a, b]) => at[b][a] > 0) : [false];
        const full = inside.every(Boolean);
        if (full && run < 0) run = i;
        if (!full && run >= 0) {
          area += `M${fix(run * side)} ${fix(j * side)}H${fix(i * side)}v${side}H${fix(run * side)}Z`;
          run = -1;
        }
        if (full || !inside.some(Boolean)) continue;
        const shape = [];
        const cuts = [];
        corners.forEach(([a, b], k) => {
          const [c, d] = corners[(k + 1) % 4];
          if (inside[k]) shape.push([a * side, b * side]);
          if (inside[k] === inside[(k + 1) % 4]) return;
          const share = at[b][a] / (at[b][a] - at[d][c]);
          const cut = [(a + share * (c - a)) * side, (b + share * (d - b)) * side];
          shape.push(cut);
          cuts.push(cut);
        });
        area += `${join(shape)}Z`;
        border += join(cuts.slice(0, 2)) + (cuts.length > 2 ? join(cuts.slice(2)) : "");
      }
    }
    return [area, border];
  };

  const dann = (d, s, shown) => {
    const [width, height, side] = [340, 300, 5];
    const unit = 47;
    const place = ([x, y]) => [width / 2 + unit * x, height / 2 - unit * y];
    const right = (net, points, classes) => {
      const of = logit(net, d.hidden);
      return points.map((p, i) => of(...p) > 0 === (classes[i] === 1));
    };
    const net = d.nets[s.weight][s.passes];
    const value = logit(net, d.hidden);
    const [area, border] = zones(
      (x, y) => value((x - width / 2) / unit, (height / 2 - y) / unit), width / side, height / side, side);
    const panel = (points, classes, name) => {
      const good = right(net, points, classes);
      const where = points.map(place);
      const sign = (k) => where.filter((_, i) => classes[i] === k)
        .map(([x, y]) => `M${fix(x - 3)} ${fix(y)}h6${k ? `m-3 -3v6` : ""}`).join("");
      const wrong = where.filter((_, i) => !good[i]);
      const ring = ([x, y]) => `M${fix(x - 6)} ${fix(y)}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0`;
      const parts = [
        path(`M0 0H${width}V${height}H0Z`, "tint ours"), path(area, "ground"), path(area, "tint baseline"),
        path(border, "stroke ink"), path(sign(0), "stroke ours"), path(sign(1), "stroke baseline"),
        path(wrong.map(ring).join(""), "stroke thin ink"),
      ];
      const share = mean(good.map(Number));
      return [frame(width, height, parts, `${name}: <b>${percent(share)}</b> right`), share];
    };
    const [left, source] = panel(d.source, d.sourceClasses, "Source");
    const [other, target] = panel(d.target, d.targetClasses, "Target, classes never seen");
    const plain = mean(right(d.nets[0][s.passes], d.target, d.targetClasses).map(Number));
    const passes = +shown.passes === 1 ? "1 pass" : `${shown.passes} passes`;
    const compare = s.weight
      ? `Without the contest the target would stand at ${percent(plain)}.`
      : "Nothing is asked about domains here: this is the network without adaptation.";
    return {
      panels: left + other,
      says: `With λ\u00a0=\u00a0${shown.weight}, after ${passes}, the network is right on ${percent(source)} of the source ` +
        `and on ${percent(target)} of the target; rings mark the points that it gets wrong. ${compare}`,
    };
  };

  // ---------------------------------------------------------------- diffusion_principles

  const HUES = ["ours", "baseline", "third", "fourth", "fifth"];

  const cloudsAt = (d, alpha, sigma, place, unit) => d.means.map(([mx, my], k) => {
    const [a, b, c] = d.covariances[k].map((v) => alpha * alpha * v);
    const middle = (a + c) / 2 + sigma * sigma;
    const spread = Math.hypot((a - c) / 2, b);
    const turn = (-Math.atan2(2 * b, a - c) * 90) / Math.PI;
    const [x, y] = place([alpha * mx, alpha * my]);
    const radii = [middle + spread, middle - spread].map((v) => fix(2 * unit * Math.sqrt(Math.max(v, 0))));
    return `<ellipse class="tint ${HUES[k]}" rx="${radii[0]}" ry="${radii[1]}" ` +
      `transform="translate(${fix(x)} ${fix(y)}) rotate(${fix(turn)})"/>`;
  }).join("");

  const cloudOf = (d, [x, y]) => {
    const score = d.means.map(([mx, my], k) => {
      const [a, b, c] = d.covariances[k];
      const [u, v] = [x - mx, y - my];
      return Math.log(d.weights[k]) - (c * u * u - 2 * b * u * v + a * v * v) / (2 * (a * c - b * b));
    });
    return score.indexOf(Math.max(...score));
  };

  const diffusion = (d, s, shown) => {
    const [size, height, unit] = [340, 316, 51];
    const place = ([x, y]) => [size / 2 + unit * x, height / 2 - unit * y];
    const cloud = (points) => HUES.map((hue, k) =>
      dots(points.filter((_, i) => d.owner[i] === k).map(place), hue)).join("");
    const frames = d.path.map(pairs);
    const exact = frames[frames.length - 1];
    const trails = exact.map((_, i) => join(frames.slice(0, s.time + 1).map((f) => place(f[i])))).join("");
    const [alpha, sigma] = [d.alpha[s.time], d.sigma[s.time]];
    const found = pairs(d.ends[s.solver][s.steps]);
    const misses = found.map(([x, y], i) => Math.hypot(x - exact[i][0], y - exact[i][1]));
    const strayed = found.filter((p, i) => cloudOf(d, p) !== d.owner[i]).length;
    const hairs = found.map((p, i) => join([place(p), place(exact[i])])).join("");
    const name = shown.solver.split(",")[0];
    const many = `${shown.steps} step${shown.steps === "1" ? "" : "s"} of ${name}`;
    const left = [cloudsAt(d, alpha, sigma, place, unit), path(trails, "stroke hair"), cloud(frames[s.time])];
    const right = [cloudsAt(d, 1, 0, place, unit), path(hairs, "stroke hair"), cloud(found)];
    const stray = strayed === 0 ? "all of them in the right cloud" : `${strayed} of ${found.length} in another cloud`;
    return {
      panels: frame(size, height, left, `The exact flow at time <b>${shown.time}</b>`) +
        frame(size, height, right, `The end of <b>${many}</b>`),
      says: `At time ${shown.time} a sample is ${fix(alpha, 2)} times data plus ${fix(sigma, 2)} times noise. ` +
        `${many} from the same noise end${shown.steps === "1" ? "s" : ""} ${mean(misses).toFixed(2)} away from ` +
        `where the exact flow ends, on average, ${stray}.`,
    };
  };

  // ---------------------------------------------------------------- f_distill

  const LOOKS = {
    reverse_kl: ["ink", (r) => 1],
    softened_reverse_kl: ["fifth", (r) => 1 / (r + 1)],
    jensen_shannon: ["ours", (r) => 1 / (1 + 1 / r)],
    squared_hellinger: ["third", (r) => Math.sqrt(r) / 4],
    forward_kl: ["baseline", (r) => r],
    jeffreys: ["fourth", (r) => r + 1],
  };
  const bell = (x, m, w) => Math.exp(-(((x - m) / w) ** 2) / 2) / (w * Math.sqrt(2 * Math.PI));

  const fDistill = (d, s, shown) => {
    const [width, height] = [340, 320];
    const a = +shown.gap;
    const [hue, weight] = LOOKS[d.names[s.divergence]];
    const [m, w] = [d.mean[s.divergence][s.gap], d.std[s.divergence][s.gap]];
    const x = scale(-13, 13, 0, width);
    const y = scale(0, 0.42, 158, 22);
    const high = scale(-2, 2, 290, 200);
    const teacher = (v) => (bell(v, -a, 1) + bell(v, a, 1)) / 2;
    const at = (v) => weight(teacher(v) / bell(v, m, w));
    const grid = Array.from({ length: 261 }, (_, i) => -13 + i / 10);
    const curve = (f) => join(grid.map((v) => [x(v), y(f(v))]));
    const heavy = grid.map((v) => [x(v), high(clamp(Math.log10(at(v)), -2.3, 2.3))]);
    const left = [
      path(`${curve(teacher)}V158H0Z`, "shade"), path(curve((v) => bell(v, m, w)), `stroke thick ${hue}`),
      line(0, 158, width, 158, "axis"), text(0, 16, "density of the teacher (grey) and of the student"),
      text(0, 188, "weight h(r) of a sample that falls at x"),
      ...[-2, 0, 2].map((p) => line(34, high(p), width, high(p), "grid") + text(0, high(p) + 4, fix(10 ** p, 2))),
      path(join(heavy.filter(([v]) => v >= 34)), `stroke thick ${hue}`),
      ...[-10, 0, 10].map((v) => text(x(v), 314, String(v).replace("-", "\u2212"), "middle")),
    ];
    const right = [-a, a].map((v) => path(`M${fix(x(v - 1))} 0H${fix(x(v + 1))}V296H${fix(x(v - 1))}Z`, "shade"));
    d.names.forEach((name, k) => {
      const [own] = LOOKS[name];
      const [mk, wk] = [d.mean[k][s.gap], d.std[k][s.gap]];
      const [row, chosen] = [36 + 49 * k, k === s.divergence];
      right.push(
        text(0, row - 14, shown.divergences[k], chosen ? `strong ${own}` : ""),
        line(x(mk - wk), row, x(mk + wk), row, `stroke ${chosen ? "heavy" : ""} ${own}`),
        disc(x(mk), row, chosen ? 6.5 : 4.5, `fill ${own}`));
    });
    right.push(...[-10, 0, 10].map((v) => text(x(v), 314, String(v).replace("-", "\u2212"), "middle")));
    const name = shown.divergence;
    const share = d.left[s.divergence][s.gap];
    const ratio = at(-a) / at(a);
    const versus = ratio > 999 ? "more than a thousand times"
      : ratio < 0.01 ? "less than a hundredth of" : `${ratio < 10 ? fix(ratio, 2) : Math.round(ratio)} times`;
    const weighs = a === 0 ? "" : Math.abs(ratio - 1) < 0.005
      ? " A sample weighs the same on both modes." : ` A sample on the left mode weighs ${versus} one on the right.`;
    const part = share < 0.01 ? "Fewer than one in a hundred" : percent(share);
    const judged = a === 0 ? "There is one mode, and every divergence likes the teacher itself best."
      : `${part} of its samples fall left of zero, where half of the teacher's do.`;
    return {
      panels: frame(width, height, left, `The best student under <b>${name}</b>`) +
        frame(width, height, right, "All six: mean, and one width to either side"),
      says: `With modes at ±${shown.gap}, ${name} likes best the student of mean ${fix(m, 2)} and width ${fix(w, 2)}. ` +
        `${judged}${weighs}`,
    };
  };

  // ---------------------------------------------------------------- transformers_as_svm

  const times = ([a, b, c, e], [x, y]) => [a * x + b * y, c * x + e * y];
  const inner = (a, b) => sum(a.map((v, i) => v * b[i]));

  const attention = (d, s, shown) => {
    const [size, unit] = [240, 74];
    const place = ([x, y]) => [size / 2 + unit * x, size / 2 - unit * y];
    const run = d.walks[s.pace][s.start];
    const W = run[s.k];
    const norm = Math.hypot(...W);
    const alike = (w) => inner(w, d.margin) / (Math.hypot(...w) * Math.hypot(...d.margin));
    const degrees = (w) => (Math.acos(clamp(alike(w), -1, 1)) * 180) / Math.PI;
    const held = [];
    const panels = d.tokens.map((tokens, i) => {
      const p = times(W, d.queries[i]);
      const goal = times(d.margin, d.queries[i]);
      const scores = tokens.map((t) => inner(t, p));
      const raw = scores.map((v) => Math.exp(v - Math.max(...scores)));
      const shares = raw.map((v) => v / sum(raw));
      held.push(shares[d.best[i]]);
      const reach = tokens.map((t) => inner(t, goal)).sort((a, b) => b - a);
      const long = Math.hypot(...goal);
      const along = goal.map((v) => v / long);
      const foot = along.map((v) => (v * (reach[0] + reach[1])) / 2 / long);
      const ends = [-1.6, 1.6].map((k) => place([foot[0] - k * along[1], foot[1] + k * along[0]]));
      const parts = [disc(size / 2, size / 2, unit, "ring"), line(...ends[0], ...ends[1], "stroke dashed ink")];
      const name = (v, r, words, look) => {
        const [x, y] = place(v.map((w) => (r * w) / Math.hypot(...v)));
        return text(x, y + 4, words, `middle strong ${look}`);
      };
      parts.push(line(size / 2, size / 2, ...place(along.map((v) => 1.16 * v)), "stroke dashed third"));
      if (norm) {
        parts.push(arrow(size / 2, size / 2, ...place(p.map((v) => (0.62 * v) / Math.hypot(...p))), "baseline"));
      }
      tokens.forEach((t, k) => {
        const top = shares[k] > 0.5;
        const r = 3 + 14 * Math.sqrt(shares[k]);
        parts.push(disc(...place(t), r, `fill veil ${top ? "ours" : "fifth"}`));
        if (k === d.best[i]) parts.push(disc(...place(t), r + 3, "stroke thin ink"));
      });
      parts.push(name(goal, 1.38, "SVM", "third"));
      if (norm) parts.push(name(p, 0.8, "Wz", "baseline"));
      return frame(size, size, parts, `Input ${i + 1}: <b>${percent(held[i])}</b> on the best token`, "rb-x-half");
    });
    const x = scale(Math.log(0.6), Math.log(10000), 44, 232);
    const y = scale(-3, Math.log10(180), 208, 14);
    const where = run.map((w, k) => [d.iterations[k], Math.hypot(...w) ? degrees(w) : NaN])
      .map(([k, v]) => [x(Math.log(Math.max(k, 0.6))), y(Math.log10(clamp(v, 0.001, 180)))]);
    const drawn = where.filter(([, v]) => !Number.isNaN(v));
    const chart = [
      ...[[100, "100°"], [1, "1°"], [0.01, "0.01°"]].map(([v, words]) =>
        line(44, y(Math.log10(v)), 232, y(Math.log10(v)), "grid") + text(0, y(Math.log10(v)) + 4, words)),
      ...[[1, "1"], [100, "100"], [10000, "10\u202f000"]].map(([v, words]) =>
        text(x(Math.log(v)), 230, words, v > 1000 ? "end" : "middle")),
      path(join(drawn), "stroke thick baseline"),
    ];
    if (norm) chart.push(disc(...where[s.k], 6.5, "fill baseline"));
    const steps = +shown.k === 1 ? "1 step" : `${shown.k} steps`;
    const angle = degrees(W);
    const found = norm
      ? `W points ${angle < 10 ? fix(angle, angle < 0.1 ? 3 : 1) : Math.round(angle)}° away from the SVM direction; ` +
        `their correlation is ${alike(W) > 0.9995 ? "above 0.999" : signed(alike(W), 3)}.`
      : "W is zero and has no direction yet: every token gets the same attention.";
    return {
      panels: panels.join("") + frame(size, size, chart, "Angle of W to the SVM, by iteration", "rb-x-wide"),
      says: `After ${steps} ${shown.start}, the best tokens hold ${held.map(percent).join(" and ")} of the attention. ${found}`,
    };
  };

  // ---------------------------------------------------------------- equilibrium_propagation

  const eqprop = (d, s, shown) => {
    const [width, height] = [340, 290];
    const hues = ["baseline", "third", "ours"];
    const [cosine, length, error] = [d.cosine, d.length, d.error].map((v) => v[s.angle][s.radius]);
    const unit = 150 * Math.min(1, 1.6 / Math.max(...length));
    const [ox, oy] = [60, 238];
    const tips = cosine.map((c, k) => {
      const a = Math.acos(clamp(c, -1, 1));
      return [ox + unit * length[k] * Math.cos(a), oy - unit * length[k] * Math.sin(a)];
    });
    const heights = apart(tips.map(([, y]) => Math.min(y, oy - 16)), 17).map((v) => v - 4);
    const words = d.points.map((k) => `N = ${k}`);
    const left = [arrow(ox, oy, ox + unit, oy, "ink", 11), text(ox, oy + 22, "exact gradient", "strong ink")];
    tips.forEach(([x, y], k) => left.push(
      line(x, y, ox + unit, oy, `stroke dashed thin ${hues[k]}`),
      line(x + 4, y, 286, heights[k], `leader ${hues[k]}`)));
    tips.forEach(([x, y], k) => left.push(
      arrow(ox, oy, x, y, hues[k], 11), text(290, heights[k] + 4, words[k], `strong ${hues[k]}`)));
    const x = scale(-2, 0, 44, 284);
    const y = scale(-4, 1, 258, 10);
    const level = (v) => y(Math.log10(clamp(v, 1e-4, 10)));
    const right = [
      ...[[10, "10"], [1, "1"], [0.1, "0.1"], [0.01, "0.01"], [0.001, "0.001"]].map(([v, say]) =>
        line(44, level(v), 284, level(v), "grid") + text(0, level(v) + 4, say)),
      ...[0.01, 0.1, 1].map((v) => text(x(Math.log10(v)), 284, v, "middle")), text(308, 284, "|β|"),
      line(x(Math.log10(d.radii[s.radius])), 10, x(Math.log10(d.radii[s.radius])), 264, "axis"),
    ];
    const rest = d.limit[s.angle];
    if (rest > 1e-4) right.push(line(44, level(rest), 284, level(rest), "stroke dashed ink"));
    const rows = d.points.map((_, k) => d.error[s.angle].map((row) => row[k]));
    const last = apart(rows.map((row) => level(row[row.length - 1])), 16);
    rows.forEach((row, k) => right.push(
      path(join(row.map((v, i) => [x(Math.log10(d.radii[i])), level(v)])), `stroke thick ${hues[k]}`),
      disc(x(Math.log10(d.radii[s.radius])), level(error[k]), 5.5, `fill ${hues[k]}`),
      text(290, last[k] + 4, words[k], `strong ${hues[k]}`)));
    const amount = (v) => (v < 0.005 ? "less than 1\u202f%" : percent(v));
    const told = ["one point", "two", "four"].map((name, k) =>
      `${amount(error[k])} with ${name} (${k ? "" : "cosine "}${signed(cosine[k], 2)})`);
    const remains = rest < 1e-6 ? "With ways back that mirror the ways forth, tiny nudges leave nothing of it."
      : `For tiny nudges ${amount(rest)} remain: that part comes from the angle.`;
    return {
      panels: frame(width, height, left, "Gradients: directions and lengths") +
        frame(width, height, right, "Relative error, by strength of the nudge"),
      says: `Ways back turned by ${shown.angle}, |β|\u00a0=\u00a0${shown.radius}: the relative error of the gradient is ` +
        `${told.join(", ")}. ${remains}`,
    };
  };

  // ---------------------------------------------------------------- drawing, and listening to the controls

  const DRAWERS = {
    dann, f_distill: fDistill, diffusion_principles: diffusion, transformers_as_svm: attention,
    equilibrium_propagation: eqprop,
  };

  // Returns the panels and the sentence of an explorable whose controls stand at these indices.
  window.rbDraw = (name, made, state) => {
    const shown = {};
    for (const c of made.controls) {
      shown[c.name] = c.values[state[c.name]];
      shown[`${c.name}s`] ??= c.values;
    }
    return DRAWERS[name](made.data, state, shown);
  };

  for (const figure of document.querySelectorAll("figure[data-explorable]")) {
    const made = JSON.parse(figure.querySelector("script").textContent);
    const stage = figure.querySelector(".rb-x-stage");
    const says = figure.querySelector(".rb-x-says");
    const fields = [...figure.querySelectorAll("[data-control]")];
    const draw = () => {
      const state = Object.fromEntries(fields.map((field) => [field.dataset.control, +field.value]));
      const drawn = window.rbDraw(figure.dataset.explorable, made, state);
      stage.innerHTML = drawn.panels;
      says.textContent = drawn.says;
      stage.setAttribute("aria-label", drawn.says);
      made.controls.forEach((c) => {
        const field = fields.find((f) => f.dataset.control === c.name);
        if (c.kind !== "range") return;
        field.setAttribute("aria-valuetext", c.values[field.value]);
        field.parentElement.querySelector("output").textContent = c.values[field.value];
      });
    };
    figure.querySelector("fieldset").disabled = false;
    figure.addEventListener("input", draw);
    draw();
  }
}
