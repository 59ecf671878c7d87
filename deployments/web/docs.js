// Shows openapi.json: each address, what it takes and what it answers. No library, so that it works offline.

import { addressOf } from "./addresses.js";

const element = (tag, text = "", className = "") => {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
};

function resolve(schema, api) {
  const name = schema?.$ref?.split("/").at(-1);
  return name ? api.components.schemas[name] : schema;
}

function typeOf(schema, api) {
  if (schema.$ref) return resolve(schema, api).title;
  if (schema.anyOf) return schema.anyOf.map((one) => typeOf(one, api)).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  return schema.type === "array" ? `list of ${typeOf(schema.items, api)}` : (schema.type ?? "any");
}

function fieldsTable(schema, api, isSent) {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const title of ["field", "type", "about"]) head.append(element("th", title));
  const body = table.createTBody();
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const row = body.insertRow();
    row.insertCell().append(element("code", name));
    row.insertCell().textContent = typeOf(field, api);
    const notes = [field.description, isSent && schema.required?.includes(name) ? "required" : null];
    if (isSent && field.default !== undefined && field.default !== null) notes.push(`default ${JSON.stringify(field.default)}`);
    row.insertCell().textContent = notes.filter(Boolean).join("; ");
  }
  return table;
}

function operationCard(method, path, operation, api) {
  const card = element("section", "", "card");
  const title = element("h2", "", "operation");
  title.append(element("span", method.toUpperCase(), "method"), element("code", path));
  card.append(title, element("p", operation.description ?? operation.summary));
  const sent = resolve(operation.requestBody?.content?.["application/json"]?.schema, api);
  if (sent) card.append(element("h3", "you send"), fieldsTable(sent, api, true));
  const answers = Object.entries(operation.responses);
  const [, success] = answers.find(([status]) => status.startsWith("2")) ?? [];
  const got = resolve(success?.content?.["application/json"]?.schema, api);
  if (got?.properties) card.append(element("h3", "you get"), fieldsTable(got, api, false));
  card.append(element("p", `Answers ${answers.map(([status]) => status).join(", ")}`, "statuses"));
  return card;
}

const operations = document.getElementById("operations");
try {
  const api = await (await fetch(addressOf("openapi.json"))).json();
  const cards = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => operationCard(method, path, operation, api)),
  );
  const errors = element("p", 'Every error has {"error": {"code", "message"}}: a stable code, and a sentence that says what to do.', "hint");
  operations.replaceChildren(...cards, errors);
} catch {
  operations.replaceChildren(element("p", "openapi.json could not be read: is the server still running? Reload the page.", "hint"));
}
