variable "topic" {
  description = "Name of the queue, such as shop-orders or shop-orders.fifo."
  type        = string
}

variable "visibility_timeout" {
  description = "Visibility timeout in seconds. The engine extends it while an event is in flight; after a crash the event waits this long."
  type        = number
  default     = 60
}

variable "max_receive_count" {
  description = "Receives after which SQS itself moves a message to the dead-letter queue. Messages returned at a worker's stop count too."
  type        = number
  default     = 20
}
