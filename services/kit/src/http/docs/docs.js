// Renders /openapi.json. Text only ever enters the page as text, so that nothing in the document can become markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];
let spec;

/** An element with attributes and children; strings become text. */
function el(name, attributes, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) element.setAttribute(key, value);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A description with the marks of Markdown that ours use: code, bold, links to pages. */
function prose(text) {
  const marks = /`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(((?:https?:\/)?\/[^)\s]+)\)/g;
  const parts = [];
  let from = 0;
  for (const found of (text || "").matchAll(marks)) {
    const [whole, code, bold, link, href] = found;
    parts.push(text.slice(from, found.index));
    parts.push(code ? el("code", {}, code) : bold ? el("strong", {}, bold) : el("a", { href }, link));
    from = found.index + whole.length;
  }
  return [...parts, (text || "").slice(from)];
}

function resolve(thing) {
  if (!thing || !thing.$ref) return thing || {};
  return thing.$ref.slice(2).split("/").reduce((at, key) => at[key.replace(/~1/g, "/").replace(/~0/g, "~")], spec);
}

/** A type in words, with a link where it has a name. */
function typeOf(schema) {
  if (!schema) return "any";
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return el("a", { href: `#schema-${name}` }, name);
  }
  const any = schema.oneOf || schema.anyOf || schema.allOf;
  if (any) return el("span", {}, any.flatMap((one, index) => [index ? " | " : "", typeOf(one)]));
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return el("span", {}, "array of ", typeOf(schema.items));
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "any";
  return schema.format ? `${type} (${schema.format})` : type;
}

function bounds(schema) {
  const words = { minimum: "at least", maximum: "at most", minLength: "min. length", maxLength: "max. length", minItems: "min. items",
    maxItems: "max. items", default: "default", pattern: "pattern" };
  return Object.entries(words).filter(([key]) => schema[key] !== undefined).map(([key, word]) => `${word} ${schema[key]}`).join(", ");
}

function about(text, schema) {
  const more = bounds(schema || {});
  return [prose(text || (schema && schema.description)), more && el("span", { class: "quiet" }, text ? ` (${more})` : more)];
}

function fields(schema) {
  const whole = { properties: {}, required: [] };
  for (const part of [schema, ...(schema.allOf || []).map(resolve)]) {
    Object.assign(whole.properties, part.properties);
    whole.required.push(...(part.required || []));
  }
  const names = Object.keys(whole.properties);
  if (!names.length) return el("p", {}, el("code", {}, typeOf(schema)));
  return el("table", {}, names.map((name) => {
    const field = whole.properties[name];
    return el("tr", {}, el("td", {}, el("code", {}, name), whole.required.includes(name) ? "" : el("span", { class: "quiet" }, " optional")),
      el("td", {}, el("code", {}, typeOf(field))), el("td", {}, about(field.description, field)));
  }));
}

/** An example of a schema: its own, or made from its types. */
function example(schema, depth = 0) {
  schema = resolve(schema);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples && schema.examples.length) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (depth > 6) return null;
  if (schema.allOf) return Object.assign({}, ...schema.allOf.map((part) => example(part, depth + 1)));
  const one = (schema.oneOf || schema.anyOf || []).find((part) => part.type !== "null");
  if (one) return example(one, depth + 1);
  const type = [].concat(schema.type).find((name) => name !== "null");
  if (type === "object") {
    return Object.fromEntries(Object.entries(schema.properties || {}).map(([key, value]) => [key, example(value, depth + 1)]));
  }
  if (type === "array") return [example(schema.items, depth + 1)];
  if (type === "integer" || type === "number") return schema.minimum || 1;
  if (type === "boolean") return true;
  return schema.format === "uuid" ? "00000000-0000-0000-0000-000000000000" : "text";
}

function bodyOf(content) {
  return Object.entries(content || {}).map(([kind, media]) => el("div", {}, el("p", {}, el("code", {}, kind), " ", typeOf(media.schema)),
    media.schema && !media.schema.$ref ? fields(media.schema) : null));
}

/** A small form that sends the request and shows the answer. */
function tryIt(path, method, operation, parameters) {
  const inputs = parameters.map((parameter) => [parameter, el("input", { "aria-label": parameter.name, placeholder: parameter.name })]);
  const content = resolve(operation.requestBody).content;
  const json = content && content["application/json"];
  const body = json && el("textarea", { "aria-label": "Body" });
  if (body) body.value = JSON.stringify(example(json.schema), null, 2);
  const answer = el("pre", { hidden: "" });
  const button = el("button", { type: "button" }, "Send");
  button.addEventListener("click", async () => {
    let url = path;
    const query = new URLSearchParams();
    const headers = {};
    const token = sessionStorage.getItem("token");
    if (token) headers.Authorization = `Bearer ${token}`;
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value && parameter.in === "query") query.set(parameter.name, input.value);
      else if (input.value && parameter.in === "header") headers[parameter.name] = input.value;
    }
    if (body) headers["Content-Type"] = "application/json";
    if (query.size) url += `?${query}`;
    answer.hidden = false;
    try {
      const response = await fetch(url, { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
      const text = await response.text();
      let shown = text;
      try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it came */ }
      answer.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
    } catch (error) {
      answer.textContent = String(error);
    }
  });
  return el("details", {}, el("summary", {}, "Try it"), inputs.map(([, input]) => input), body || null, button, answer);
}

function operationOf(path, method, operation, shared) {
  const parameters = [...(shared || []), ...(operation.parameters || [])].map(resolve);
  const id = `${method}-${path}`;
  const parts = [];
  if (operation.description) parts.push(...operation.description.split(/\n\s*\n/).map((part) => el("p", {}, prose(part))));
  if (parameters.length) {
    parts.push(el("h3", {}, "Parameters"), el("table", {}, parameters.map((parameter) => el("tr", {},
      el("td", {}, el("code", {}, parameter.name), el("span", { class: "quiet" }, ` ${parameter.in}${parameter.required ? "" : ", optional"}`)),
      el("td", {}, el("code", {}, typeOf(parameter.schema))), el("td", {}, about(parameter.description, parameter.schema))))));
  }
  const body = resolve(operation.requestBody);
  if (body.content) parts.push(el("h3", {}, "Body"), bodyOf(body.content));
  parts.push(el("h3", {}, "Answers"), el("table", {}, Object.entries(operation.responses || {}).map(([status, response]) => {
    response = resolve(response);
    return el("tr", {}, el("td", {}, el("code", {}, status)), el("td", {}, prose(response.description), bodyOf(response.content)));
  })), tryIt(path, method, operation, parameters));
  return el("details", { class: "operation", id }, el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()),
    el("code", {}, path), " ", el("span", { class: "quiet" }, prose(operation.summary))), el("div", {}, parts));
}

function tokenField() {
  const input = el("input", { type: "password", placeholder: "access token, for trying operations", "aria-label": "Access token", autocomplete: "off" });
  input.value = sessionStorage.getItem("token") || "";
  input.addEventListener("change", () => sessionStorage.setItem("token", input.value.trim()));
  return input;
}

function render() {
  const main = document.getElementById("main");
  const contents = document.getElementById("contents");
  document.title = spec.info.title;
  main.replaceChildren(el("h1", {}, spec.info.title, " ", el("small", {}, spec.info.version)), el("p", {}, prose(spec.info.description)),
    el("p", {}, el("a", { href: "/openapi.json" }, "openapi.json"), " · ", el("a", { href: "/health" }, "health")), tokenField());
  const groups = new Map((spec.tags || []).map((tag) => [tag.name, []]));
  for (const [path, item] of Object.entries(spec.paths)) {
    for (const method of METHODS.filter((name) => item[name])) {
      const tag = (item[method].tags || ["other"])[0];
      groups.set(tag, [...(groups.get(tag) || []), operationOf(path, method, item[method], item.parameters)]);
    }
  }
  for (const [tag, operations] of groups) {
    if (!operations.length) continue;
    main.append(el("h2", { id: `tag-${tag}` }, tag), ...operations);
    contents.append(el("p", { class: "group" }, tag), ...operations.map((operation) => el("a", { href: `#${operation.id}` }, operation.id.replace("-", " "))));
  }
  main.append(el("h2", { id: "schemas" }, "Schemas"));
  for (const [name, schema] of Object.entries((spec.components || {}).schemas || {})) {
    main.append(el("details", { class: "operation", id: `schema-${name}` }, el("summary", {}, el("code", {}, name)),
      el("div", {}, schema.description ? el("p", {}, prose(schema.description)) : null, fields(schema))));
  }
  reveal();
}

/** Opens what the address points at. */
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target) {
    target.open = true;
    target.scrollIntoView();
  }
}

addEventListener("hashchange", reveal);
fetch("/openapi.json").then((response) => response.json()).then((document) => {
  spec = document;
  render();
}, (error) => document.getElementById("main").replaceChildren(`can't read /openapi.json: ${error}`));
