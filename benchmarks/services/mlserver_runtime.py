"""The runtimes for MLServer, run with its own environment."""

import json
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec

JOB = json.loads(Path("job.json").read_text())


class Echo(MLModel):
    """The first input's strings come back."""

    async def predict(self, payload):
        from mlserver.types import InferenceResponse

        texts = StringCodec.decode_input(payload.inputs[0])
        output = StringCodec.encode_output("answer", texts)
        return InferenceResponse(model_name=self.name, outputs=[output])


class Classify(MLModel):
    """JPEGs in base64, which the protocol asks for in JSON, to the five best classes."""

    async def load(self):
        import eager
        import images

        self.images, self.network = images, eager.load(JOB["model"])
        return True

    async def predict(self, payload):
        from mlserver.types import InferenceResponse

        bodies = Base64Codec.decode_input(payload.inputs[0])
        tensors = [self.images.preprocess(body) for body in bodies]
        answers = [json.dumps(one) for one in self.images.classify(self.network, tensors)]
        output = StringCodec.encode_output("answer", answers)
        return InferenceResponse(model_name=self.name, outputs=[output])
