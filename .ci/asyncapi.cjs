// Renders schemas/asyncapi.json as FOLDER/asyncapi.html: node .ci/asyncapi.cjs PACKAGES FOLDER. PACKAGES has node_modules.

const path = require("node:path");

const [packages, folder] = process.argv.slice(2).map((argument) => path.resolve(argument));
const modules = path.join(packages, "node_modules", "@asyncapi");
const Generator = require(path.join(modules, "generator"));
const templateParams = { singleFile: true, outFilename: "asyncapi.html" };

new Generator(path.join(modules, "html-template"), folder, { forceWrite: true, templateParams })
  .generateFromFile(path.join(__dirname, "..", "schemas", "asyncapi.json"))
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });
