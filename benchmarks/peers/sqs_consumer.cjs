// sqs-consumer on Node: it receives ten messages, calls the function for each and deletes each.
const fs = require("node:fs");
const { SQSClient } = require("@aws-sdk/client-sqs");
const { Consumer } = require("sqs-consumer");

const { AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_SQS, BENCH_LEDGER, BENCH_TOPIC } = process.env;
const ledger = fs.openSync(BENCH_LEDGER, "a");

Consumer.create({
  queueUrl: `${AWS_ENDPOINT_URL_SQS}/000000000000/${BENCH_TOPIC}`,
  sqs: new SQSClient({ region: AWS_DEFAULT_REGION, endpoint: AWS_ENDPOINT_URL_SQS }),
  batchSize: 10,
  waitTimeSeconds: 20,
  handleMessage: async (message) => {
    fs.writeSync(ledger, `peer   ${JSON.parse(message.Body).header.id}\n`);
    return message;
  },
}).start();
