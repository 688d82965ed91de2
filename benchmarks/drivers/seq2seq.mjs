// transformers.js' answers to one task on stdin: `node seq2seq.mjs FOLDER < TASK`, FOLDER being where it is installed.

import fs from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(`${process.argv[2]}/`);
const { AutoModelForSeq2SeqLM, Tensor, env } = require("@huggingface/transformers");

const task = JSON.parse(fs.readFileSync(0, "utf-8"));
env.allowRemoteModels = false;
env.localModelPath = `${task.root}/`;

const tensor = (rows) => new Tensor("int64", BigInt64Array.from(rows.flat().map(BigInt)), [rows.length, rows[0].length]);

const run = async () => {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(task.folder, { dtype: "fp32", device: "cpu" });
  const found = await model.generate({
    inputs: tensor(task.input_ids),
    attention_mask: tensor(task.attention_mask),
    do_sample: false,
    max_new_tokens: task.tokens,
  });
  const rows = found.tolist().map((row) => row.map(Number));
  console.log(JSON.stringify({ runtime: `transformers.js ${env.version}`, rows }));
};

run().catch((error) => {
  console.error(String(error).split("\n")[0]);
  process.exit(1);
});
