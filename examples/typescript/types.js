// Generates src/generated/*.ts from the JSON Schemas: one file for each of those that this example uses.
import { mkdir, writeFile } from "node:fs/promises";
import { compileFromFile } from "json-schema-to-typescript";

const schemas = new URL("../../schemas/json/", import.meta.url).pathname;
const target = new URL("src/generated/", import.meta.url).pathname;

await mkdir(target, { recursive: true });
for (const name of ["Published", "AgentState", "PartitionHeartbeat"]) {
  const text = await compileFromFile(`${schemas}${name}.json`, { additionalProperties: true });
  await writeFile(`${target}${name}.ts`, text);
}
