// The form "Rerun with your own values": checks what is typed against the notebook's own limits, and writes the
// two commands anew. What is not allowed is said in one sentence and left out of the commands.
{
  const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;
  const DEVICE = /^(auto|cpu|mps|cuda(:\d+)?)$/;

  // "0 .. 10" as words
  function limitsInWords(allowed) {
    const [, low, high] = allowed?.match(/^(\S+) \.\.(?: (\S+))?$/) ?? [];
    if (low === undefined) return "";
    return high === undefined ? `, ${low} or more` : ` from ${low} to ${high}`;
  }

  function whatIsNeeded(name, { type, allowed }) {
    if (allowed === "device") return `${name} takes auto, cpu, cuda, cuda:N or mps.`;
    if (allowed?.includes("|")) return `${name} takes one of ${allowed.replaceAll(" |", ",")}.`;
    const [one, many] = type.includes("int") ? ["a whole number", "whole numbers"] : ["a number", "numbers"];
    const limits = limitsInWords(allowed);
    return type.startsWith("list") ? `${name} takes ${many}${limits}, with commas between them.` : `${name} takes ${one}${limits}.`;
  }

  // One value in its plainest form, or null if it is not allowed.
  function readOne(text, kind, allowed) {
    if (kind === "bool") return text === "true" || text === "false" ? text : null;
    if (kind === "str") {
      const fits = allowed === "device" ? DEVICE.test(text) : !allowed || allowed.split("|").some((one) => one.trim() === text);
      return fits ? text : null;
    }
    if (!(kind === "int" ? /^[-+]?\d+$/ : NUMBER).test(text)) return null;
    const value = Number(text);
    const [, low, high] = allowed?.match(/^(\S+) \.\.(?: (\S+))?$/) ?? [];
    if (!Number.isFinite(value) || value < Number(low ?? -Infinity) || value > Number(high ?? Infinity)) return null;
    return kind === "int" ? BigInt(text.replace("+", "")).toString() : String(value);
  }

  // A list of values in their plainest form, of length 1 for a parameter that is no list; or null.
  function read(text, { type, allowed }) {
    const isList = type.startsWith("list[");
    const kind = isList ? type.slice(5, -1) : type;
    const words = isList ? text.trim().replace(/^\[|\]$/g, "").split(",") : [text];
    const values = words.map((word) => readOne(word.trim(), kind, allowed));
    return values.includes(null) ? null : values;
  }

  const quote = (text) => (/^[\w.:+-]+$/.test(text) ? text : `'${text}'`);
  // YAML 1.1, which papermill reads, takes 1e-7 for a word
  const inYaml = (number) => number.replace(/^(-?\d+)e/, "$1.0e");

  function forReprobook(name, values, isList) {
    return `-p ${name} ${quote(isList ? `[${values.join(", ")}]` : values[0])}`;
  }

  function forPapermill(name, values, { type }) {
    if (type.startsWith("list[")) return `-y '${name}: [${values.map(inYaml).join(", ")}]'`;
    if (type === "bool") return `-p ${name} ${values[0] === "true" ? "True" : "False"}`;
    return `-p ${name} ${quote(values[0])}`;
  }

  function bringToLife(box) {
    const { name: run, notebook, parameters, tiers, files } = JSON.parse(box.querySelector(".rb-launch-data").textContent);
    const form = box.querySelector("form");
    const wrong = box.querySelector(".rb-launch-wrong");
    const [reprobook, papermill] = box.querySelectorAll("pre");
    const controls = Object.keys(parameters).map((name) => form.elements.namedItem(name));
    const tier = form.elements.namedItem("--tier");
    let last = tier.value;

    function write() {
      const values = tiers[tier.value];
      const complaints = [];
      const ours = ["$ reprobook run", run];
      const plain = ["$ papermill", notebook, "out.ipynb"];
      if (tier.value in files) {
        ours.push("--tier", tier.value);
        plain.push("-f", files[tier.value]);
      }
      for (const control of controls) {
        const parameter = parameters[control.name];
        const typed = read(control.value, parameter);
        const changed = typed && typed.join() !== read(values[control.name], parameter).join();
        control.toggleAttribute("data-changed", Boolean(changed));
        if (typed === null) complaints.push(whatIsNeeded(control.name, parameter));
        control.setAttribute("aria-invalid", String(typed === null));
        if (!changed) continue;
        ours.push(forReprobook(control.name, typed, parameter.type.startsWith("list[")));
        plain.push(forPapermill(control.name, typed, parameter));
      }
      const said = complaints.length ? `${complaints.join(" ")} Until then, the commands go without.` : "";
      if (wrong.textContent !== said) wrong.textContent = said;
      reprobook.textContent = ours.join(" ");
      papermill.textContent = plain.join(" ");
    }

    // another tier brings its own values; what the reader has typed stays
    tier.addEventListener("change", () => {
      for (const control of controls) {
        if (control.value === tiers[last][control.name]) control.value = tiers[tier.value][control.name];
      }
      last = tier.value;
      write();
    });
    form.addEventListener("input", write);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.reset();
    form.hidden = false;
    write();
  }

  for (const box of document.querySelectorAll(".rb-launch")) bringToLife(box);
}
