"use strict";
// Shows openapi.json. All text goes in as text, never as markup; nothing is asked of another host.
(() => {
  const byId = (id) => document.getElementById(id);
  const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
  let doc;

  // An element with attributes and children; strings become text.
  function el(name, attributes = {}, ...children) {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== undefined && child !== null));
    return element;
  }

  // Paragraphs, with `code`.
  function prose(text) {
    return (text || "").trim().split(/\n\s*\n/).filter(Boolean).map((paragraph) =>
      el("p", {}, ...paragraph.split(/(`[^`]+`)/).map((part) =>
        part.startsWith("`") && part.length > 2 ? el("code", {}, part.slice(1, -1)) : part)));
  }

  function resolve(value) {
    const seen = new Set();
    while (value && value.$ref && !seen.has(value.$ref)) {
      seen.add(value.$ref);
      value = value.$ref.slice(2).split("/").reduce((at, key) => at && at[key.replace(/~1/g, "/").replace(/~0/g, "~")], doc);
    }
    return value || {};
  }

  const refName = (schema) => schema && schema.$ref ? schema.$ref.split("/").pop() : "";

  // One word or two for what a schema allows.
  function kind(schema) {
    const name = refName(schema);
    const it = resolve(schema);
    const parts = [];
    const either = it.oneOf || it.anyOf;
    if (it.enum) parts.push(it.enum.length > 12 ? `one of ${it.enum.length} words` : it.enum.map((v) => JSON.stringify(v)).join(" | "));
    else if (either) parts.push(either.map(kind).join(" or "));
    else if (it.allOf) parts.push(it.allOf.map(kind).join(" and "));
    else if ([].concat(it.type).includes("array")) parts.push(`list of ${kind(it.items || {})}`);
    else parts.push(name && it.properties ? name : [].concat(it.type || "any").join(" or ") + (it.format ? ` (${it.format})` : ""));
    if (it.minimum !== undefined || it.maximum !== undefined) parts.push(`${it.minimum ?? ""}…${it.maximum ?? ""}`);
    if (it.minLength !== undefined || it.maxLength !== undefined) parts.push(`${it.minLength ?? 0}…${it.maxLength ?? ""} characters`);
    if (it.pattern) parts.push(`matches ${it.pattern}`);
    if (it.default !== undefined) parts.push(`default ${JSON.stringify(it.default)}`);
    return parts.join(", ");
  }

  // The schemas below a schema whose properties are worth a list.
  function fields(schema, depth, seen) {
    const name = refName(schema);
    if (depth > 5 || (name && seen.includes(name))) return null;
    const path = name ? [...seen, name] : seen;
    const it = resolve(schema);
    const inner = (it.oneOf || it.anyOf || it.allOf || []).map((s) => fields(s, depth, path)).filter(Boolean);
    if (inner.length) return inner;
    if (it.items) return fields(it.items, depth, path);
    const list = [];
    for (const [key, value] of Object.entries(it.properties || {})) {
      const target = resolve(value);
      const notes = [kind(value), (it.required || []).includes(key) ? "" : "optional"].filter(Boolean).join(", ");
      list.push(el("li", {}, el("code", {}, key), " ", el("span", { class: "kind" }, notes),
        ...prose(value.description || target.description), fields(value, depth + 1, path)));
    }
    if (it.additionalProperties && typeof it.additionalProperties === "object") {
      list.push(el("li", {}, el("span", { class: "kind" }, `any name: ${kind(it.additionalProperties)}`),
        fields(it.additionalProperties, depth + 1, path)));
    }
    return list.length ? el("ul", { class: "schema" }, list) : null;
  }

  // The examples of a media type, else that of its schema.
  function examples(media) {
    if (media.examples) return Object.entries(media.examples).map(([name, e]) => [e.summary || name, resolve(e).value]);
    if (media.example !== undefined) return [["", media.example]];
    const schema = resolve(media.schema);
    const one = schema.example ?? (schema.examples || [])[0];
    return one === undefined ? [] : [["", one]];
  }

  const pretty = (value) => typeof value === "string" ? value : JSON.stringify(value, null, 2);

  function content(holder) {
    return Object.entries(holder.content || {}).map(([type, media]) => [
      el("p", { class: "muted" }, type, media.schema ? `: ${kind(media.schema)}` : ""),
      media.schema ? fields(media.schema, 0, []) : null,
      examples(media).map(([name, value]) => [name ? el("p", {}, name) : null, el("pre", { tabindex: "0" }, pretty(value))]),
    ]).flat(3);
  }

  function parameters(list) {
    if (!list.length) return [];
    const rows = list.map((p) => el("tr", {},
      el("td", {}, el("code", {}, p.name)),
      el("td", { class: "kind" }, `${p.in}${p.required ? ", required" : ""}`),
      el("td", { class: "kind" }, kind(p.schema || {})),
      el("td", {}, ...prose(p.description))));
    const head = ["Name", "In", "Type", "Means"].map((text) => el("th", { scope: "col" }, text));
    return [el("h3", {}, "Parameters"), el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows))];
  }

  function responses(operation) {
    return [el("h3", {}, "Answers"), ...Object.entries(operation.responses || {}).map(([status, response]) => {
      const it = resolve(response);
      const body = content(it);
      return el("details", {}, el("summary", {}, el("code", {}, status), " ", it.description || ""), body);
    })];
  }

  // The form that sends the request, and shows it as a curl command first.
  function tryIt(method, path, operation, list) {
    const inputs = new Map();
    const label = (p) => {
      const input = el("input", { autocomplete: "off", spellcheck: "false", required: p.required && p.in === "path", placeholder: String(p.example ?? "") });
      inputs.set(p, input);
      return el("label", {}, el("span", {}, p.name), input);
    };
    const media = Object.entries(resolve(operation.requestBody).content || {})[0];
    const shown = media ? examples(media[1])[0] : undefined;
    const body = media ? el("textarea", { spellcheck: "false" }) : null;
    if (body && shown) body.value = pretty(shown[1]);
    const output = el("div", { role: "status" });

    function request() {
      let url = path;
      const query = new URLSearchParams();
      for (const [p, input] of inputs) {
        if (p.in === "path") url = url.replace(`{${p.name}}`, encodeURIComponent(input.value));
        else if (p.in === "query" && input.value !== "") query.append(p.name, input.value);
      }
      const text = query.toString();
      const headers = {};
      if (body) headers["Content-Type"] = media[0];
      const token = byId("token").value.trim();
      if (token && operation.security !== undefined) headers.Authorization = `Bearer ${token}`;
      return { url: new URL("." + url + (text ? `?${text}` : ""), document.baseURI), headers };
    }

    function curl() {
      const { url, headers } = request();
      const quote = (text) => `'${text.replace(/'/g, `'\\''`)}'`;
      const parts = ["curl -sS", method === "get" ? "" : `-X ${method.toUpperCase()}`];
      for (const [name, value] of Object.entries(headers)) {
        parts.push("-H " + (name === "Authorization" ? `"Authorization: Bearer $ADMIN_TOKEN"` : quote(`${name}: ${value}`)));
      }
      if (body) parts.push("-d " + quote(body.value.replace(/\s*\n\s*/g, "")));
      parts.push(quote(url.href));
      return parts.filter(Boolean).join(" ");
    }

    const command = el("pre", { tabindex: "0" });
    const update = () => { command.textContent = curl(); };
    async function send(event) {
      event.preventDefault();
      update();
      const { url, headers } = request();
      output.replaceChildren(el("p", {}, "Waiting for the answer…"));
      const begun = performance.now();
      try {
        const answer = await fetch(url, { method: method.toUpperCase(), headers, body: body ? body.value : undefined, cache: "no-store" });
        let text = await answer.text();
        try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it is */ }
        output.replaceChildren(
          el("p", { class: answer.ok ? "" : "failed" }, `${answer.status} ${answer.statusText} after ${Math.round(performance.now() - begun)} ms, request id ${answer.headers.get("x-request-id") || "none"}`),
          el("pre", { tabindex: "0" }, text));
      } catch (error) {
        output.replaceChildren(el("p", { class: "failed" }, `No answer: ${error.message}`));
      }
    }
    const form = el("form", { class: "try", onsubmit: send, oninput: update },
      el("h3", {}, "Try it"),
      list.filter((p) => p.in === "path" || p.in === "query").map(label),
      body ? el("label", { class: "body" }, el("span", {}, "Body"), body) : null,
      command, el("button", { type: "submit" }, "Send"), output);
    byId("token").addEventListener("input", update);
    update();
    return form;
  }

  const anchor = (method, path) => `${method}-${path.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "")}`;

  function operation(method, path, it, shared) {
    const list = [...shared, ...(it.parameters || [])].map(resolve);
    const style = ["get", "post", "delete"].includes(method) ? method : "other";
    const inside = el("div", {});
    const details = el("details", { class: "operation", id: anchor(method, path) },
      el("summary", {}, el("span", { class: `method ${style}` }, method.toUpperCase()), el("span", { class: "path" }, path),
        el("span", { class: "muted" }, it.summary || ""), it.deprecated ? el("strong", {}, "deprecated") : null),
      inside);
    details.dataset.words = `${method} ${path} ${it.summary || ""} ${it.description || ""}`.toLowerCase();
    // Filled when it is opened first: the page is there at once.
    details.addEventListener("toggle", () => {
      if (!details.open || inside.childElementCount) return;
      const body = resolve(it.requestBody);
      inside.append(...[prose(it.description), parameters(list),
        it.requestBody ? [el("h3", {}, "Body", body.required ? "" : " (optional)"), ...prose(body.description), ...content(body)] : [],
        responses(it), tryIt(method, path, it, list)].flat());
    });
    const link = el("li", {}, el("a", { href: `#${details.id}`, onclick: () => { details.open = true; } },
      el("span", { class: `method ${style}` }, method.toUpperCase()), el("span", {}, path)));
    return { details, link };
  }

  function show() {
    byId("title").textContent = `${doc.info.title} API`;
    document.title = `${doc.info.title} API`;
    byId("version").textContent = `Version ${doc.info.version}, OpenAPI ${doc.openapi}.`;
    byId("description").append(...prose(doc.info.description));
    const groups = new Map((doc.tags || []).map((tag) => [tag.name, { about: tag.description, all: [] }]));
    for (const [path, item] of Object.entries(doc.paths)) {
      for (const method of METHODS) {
        const it = item[method];
        if (!it) continue;
        const tag = (it.tags || ["other"])[0];
        if (!groups.has(tag)) groups.set(tag, { all: [] });
        groups.get(tag).all.push(operation(method, path, it, item.parameters || []));
      }
    }
    for (const [name, { about, all }] of groups) {
      if (!all.length) continue;
      byId("operations").append(el("section", { "aria-label": name }, el("h2", {}, name), ...prose(about), all.map((o) => o.details)));
      byId("contents").append(el("section", {}, el("h2", {}, name), el("ul", {}, all.map((o) => o.link))));
    }
    byId("state").hidden = true;
    reveal();
  }

  function reveal() {
    const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }

  const all = () => [...document.querySelectorAll("details.operation")];
  byId("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const details of all()) {
      details.hidden = !words.every((word) => details.dataset.words.includes(word));
      found += details.hidden ? 0 : 1;
    }
    for (const section of document.querySelectorAll("main section")) {
      section.hidden = !section.querySelector("details.operation:not([hidden])");
    }
    byId("state").hidden = found > 0;
    byId("state").textContent = "Nothing is found.";
  });
  byId("all").addEventListener("click", (event) => {
    const open = event.target.getAttribute("aria-pressed") !== "true";
    event.target.setAttribute("aria-pressed", String(open));
    event.target.textContent = open ? "Close all" : "Open all";
    for (const details of all()) details.open = open;
  });
  addEventListener("hashchange", reveal);

  fetch("openapi.json").then((answer) => {
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    return answer.json();
  }).then((json) => { doc = json; show(); }).catch((error) => {
    byId("state").className = "failed";
    byId("state").textContent = `The document cannot be shown: ${error.message}`;
  });
})();
