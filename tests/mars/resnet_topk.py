"""A custom handler as TorchServe's users write them: a TorchScript ResNet, top five classes."""

import base64
import io
import json
import logging
import os

import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class ResnetTopK(BaseHandler):
    def __init__(self):
        super().__init__()
        self.initialized = False
        self.mapping = {}
        self.transform = transforms.Compose(
            [
                transforms.Resize(256),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def initialize(self, context):
        self.manifest = context.manifest
        properties = context.system_properties
        model_dir = properties.get("model_dir")
        gpu_id = properties.get("gpu_id")
        use_cuda = torch.cuda.is_available() and gpu_id is not None
        self.device = torch.device(f"cuda:{gpu_id}" if use_cuda else "cpu")

        serialized_file = self.manifest["model"]["serializedFile"]
        model_path = os.path.join(model_dir, serialized_file)
        if not os.path.isfile(model_path):
            raise RuntimeError(f"Missing the model file {model_path}")
        self.model = torch.jit.load(model_path, map_location=self.device)
        self.model.eval()

        names = os.path.join(model_dir, "index_to_name.json")
        if os.path.isfile(names):
            with open(names) as f:
                self.mapping = json.load(f)
        self.initialized = True
        logger.info("Loaded %s on %s", serialized_file, self.device)

    def preprocess(self, data):
        images = []
        for row in data:
            image = row.get("data") or row.get("body")
            if isinstance(image, str):
                image = base64.b64decode(image)
            image = Image.open(io.BytesIO(image)).convert("RGB")
            images.append(self.transform(image))
        return torch.stack(images).to(self.device)

    def inference(self, data, *args, **kwargs):
        with torch.no_grad():
            return self.model(data)

    def postprocess(self, data):
        probabilities = F.softmax(data, dim=1)
        values, indices = torch.topk(probabilities, 5, dim=1)
        results = []
        for probs, classes in zip(values.tolist(), indices.tolist(), strict=True):
            result = {}
            for prob, number in zip(probs, classes, strict=True):
                name = self.mapping.get(str(number), str(number))
                result[name[-1] if isinstance(name, list) else name] = prob
            results.append(result)
        return results

    def handle(self, data, context):
        return self.postprocess(self.inference(self.preprocess(data)))
