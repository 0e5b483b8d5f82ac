// Streams an answer from a Tiercel stack.
//
// npm install && node client.js [HOST:PORT] [PROMPT]
"use strict";

const path = require("node:path");
const grpc = require("@grpc/grpc-js");
const protoLoader = require("@grpc/proto-loader");

const [target = "127.0.0.1:50051", prompt = "The sky is"] = process.argv.slice(2);

// The protos are read at run time. `defaults` fills in what is empty on the wire, `oneofs` adds the name of the
// field that is set, `longs: Number` suits nanoseconds below 104 days.
const protos = path.join(__dirname, "..", "..", "protos");
const definition = protoLoader.loadSync("tiercel/v1/inference.proto", {
  includeDirs: [protos],
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { Inference } = grpc.loadPackageDefinition(definition).tiercel.v1;

const client = new Inference(target, grpc.credentials.createInsecure());
const call = client.Generate(
  { text: prompt, sampling: { max_tokens: 32, temperature: 0 } },
  { deadline: new Date(Date.now() + 60_000) },
);

call.on("data", (message) => {
  switch (message.event) {
    case "started":
      process.stdout.write(`[${message.started.prompt_tokens} prompt tokens] `);
      break;
    case "delta":
      process.stdout.write(message.delta.text);
      break;
    case "finished": {
      const { choices, usage, report } = message.finished;
      const milliseconds = (report.ttft_ns / 1e6).toFixed(1);
      console.log(`\n[${usage.completion_tokens} tokens, ${choices[0].reason}, first after ${milliseconds} ms]`);
      break;
    }
  }
});
// To cancel an answer: call.cancel().
process.on("SIGINT", () => call.cancel());
call.on("error", (error) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
  client.close();
});
call.on("end", () => client.close());
