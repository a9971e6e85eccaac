// Camera images with the points that they see, in the colours of the cloud.

class ImageStrip {
  constructor(section, strip) {
    this.section = section;
    this.strip = strip;
    this.figures = [];
  }

  // Figures stay in place from scan to scan, so that one that was enlarged remains so.
  show(frame) {
    this.section.hidden = frame.images.length === 0;
    while (this.figures.length > frame.images.length) this.figures.pop().figure.remove();
    while (this.figures.length < frame.images.length) this.figures.push(this.add());
    frame.images.forEach((image, i) => {
      const { img, canvas, caption, button } = this.figures[i];
      img.src = image.src;
      [img.width, img.height] = [canvas.width, canvas.height] = image.size;
      img.alt = `Image of ${image.name}`;
      caption.textContent = image.name;
      button.setAttribute("aria-label", `Enlarge ${image.name}`);
    });
  }

  add() {
    const figure = document.createElement("figure"), button = document.createElement("button");
    const img = document.createElement("img"), canvas = document.createElement("canvas");
    const caption = document.createElement("figcaption");
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => button.setAttribute("aria-pressed", figure.classList.toggle("wide")));
    button.append(img, canvas);
    figure.append(button, caption);
    this.strip.append(figure);
    return { figure, button, img, canvas, caption };
  }

  paint(frame, alpha, colorsOf) {
    frame.images.forEach((image, i) => {
      const colors = colorsOf(image);
      const canvas = this.figures[i].canvas, context = canvas.getContext("2d");
      context.clearRect(0, 0, canvas.width, canvas.height);
      canvas.style.opacity = alpha;
      for (let k = 0; k < image.n; k++) {
        const at = 4 * k;
        if (!colors[at + 3]) continue;
        context.fillStyle = `rgb(${colors[at]},${colors[at + 1]},${colors[at + 2]})`;
        context.beginPath();
        context.arc(image.uv[2 * k] * image.step, image.uv[2 * k + 1] * image.step, image.radius[k] / 32, 0, 2 * Math.PI);
        context.fill();
      }
    });
  }
}
