"""The echo service for mosec, run with the Python of mosec's own environment: body in, body out."""

from mosec import Server, Worker


class Echo(Worker):
    """Bytes through, as the handler of the other two servers gets and returns them."""

    def deserialize(self, data):
        return data

    def forward(self, data):
        return data

    def serialize(self, data):
        return data


if __name__ == "__main__":
    server = Server()
    server.append_worker(Echo, num=1, max_batch_size=1)
    server.run()
